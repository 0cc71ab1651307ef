"""Each window is evaluated before it is trained, by a model that has seen nothing of it (`evaluate.next_window`)."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from tests.ranks import run_on_ranks
from tests.trainer.days import DAYS, add, config_of
from tests.trainer.training import evaluation_records
from trainer.analysis.compare.windows import compare_windows
from trainer.analysis.report.report import write_report
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.run.records import read_evaluations, read_window_evaluations
from trainer.train import train

NEXT_WINDOW = {"evaluate": {"next_window": True}, "checkpoint": {"every_samples": 64, "keep": 100}}
BOUNDARIES = {24: 0, 25: 192, 26: 384, 27: 704, 28: 704}
"""The last multiple of 64 samples before any row of the day."""


def _train(world: World, config: Config) -> None:
    train(config, world)


def _evaluate_days(world: World, run: str, days: Path) -> list[list[dict[str, Any]]]:
    """Each day but the first by the model of its boundary, as a dataset of its own."""
    wanted = [(str(BOUNDARIES[day]), str(days / "all" / f"dt=2022-04-{day}")) for day in DAYS if BOUNDARIES[day]]
    return [evaluation_records(run, checkpoint, data, world) for checkpoint, data in wanted]


def metrics(run: Path) -> list[dict[str, Any]]:
    records = read_window_evaluations(RunDirectory(run).evaluations)
    return [record.model_dump(exclude={"seconds"}) for record in records]


@pytest.fixture(scope="module")
def once(days: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("once") / "run"
    run_on_ranks(1, _train, config_of(days, days / "all", run, **NEXT_WINDOW))
    return run


def test_each_day_is_evaluated_before_it_is_trained(days: Path, once: Path) -> None:
    records = metrics(once)
    assert [(record["window"], record["samples"], record["examples"]) for record in records] == [
        (f"dt=2022-04-{day}", BOUNDARIES[day], rows) for day, rows in DAYS.items()
    ]
    (days_alone,) = run_on_ranks(1, _evaluate_days, str(once), days)
    for record, (alone,) in zip(records[1:], days_alone, strict=True):
        assert {key: value for key, value in record.items() if key != "window"} == {
            key: value for key, value in alone.items() if key not in ("window", "seconds")
        }
    assert [record.samples for record in read_evaluations(RunDirectory(once).evaluations)] == [958 // 64 * 64]


def test_measuring_does_not_change_the_training(days: Path, once: Path, tmp_path: Path) -> None:
    run_on_ranks(1, _train, config_of(days, days / "all", tmp_path / "run"))
    losses = [[record["loss"] for record in read_records(run / "train.jsonl")] for run in (once, tmp_path / "run")]
    assert losses[0] == losses[1]


def test_day_by_day_without_a_test_set_on_two_ranks(days: Path, once: Path, tmp_path: Path) -> None:
    config = config_of(days, tmp_path / "log", tmp_path / "run", data={"test": None}, **NEXT_WINDOW)
    for day in DAYS:
        add(days, tmp_path / "log", day)
        run_on_ranks(2, _train, config)
        run_on_ranks(1, _train, config)  # nothing new: nothing is measured again

    # rounding may order two nearly equal predictions the other way: one pair of positive and negative in the AUC
    for record, expected in zip(metrics(tmp_path / "run"), metrics(once), strict=True):
        pairs = expected["label_mean"] * (1 - expected["label_mean"]) * expected["examples"] ** 2
        assert record.pop("auc") == pytest.approx(expected.pop("auc"), abs=2.5 / pairs)
        assert record == pytest.approx(expected, abs=1e-5)


def test_a_measurement_that_was_cut_short_is_made_again(days: Path, once: Path, tmp_path: Path) -> None:
    config = config_of(days, days / "all", tmp_path / "run", train={"samples": 384}, **NEXT_WINDOW)
    run_on_ranks(1, _train, config)
    run = RunDirectory(tmp_path / "run")
    lines = run.evaluations.read_text().splitlines(keepends=True)
    assert '"dt=2022-04-26"' in lines[-1]
    run.evaluations.write_text("".join(lines[:-1]))
    run_on_ranks(1, _train, config)
    assert metrics(run.path) == metrics(once)[:3]


def test_runs_are_compared_over_windows(days: Path, once: Path, tmp_path: Path) -> None:
    optimizer = {"dense": {"learning_rate": 0.02, "decay": "none"}, "sparse": {"decay": "none"}}
    config = config_of(days, days / "all", tmp_path / "run", optimizer=optimizer, **NEXT_WINDOW)
    run_on_ranks(1, _train, config)
    (difference,) = compare_windows(str(once), [str(tmp_path / "run")])

    values = [[record["ne"] for record in metrics(run)[1:]] for run in (once, tmp_path / "run")]
    relative = 100 * (np.array(values[1]) / np.array(values[0]) - 1)
    expected = stats.ttest_1samp(relative, 0).confidence_interval(0.95)
    assert (difference.task, difference.metric, difference.windows) == ("click", "ne", 4)
    assert difference.relative_percent == pytest.approx(relative.mean(), rel=1e-12)
    assert [difference.low_percent, difference.high_percent] == pytest.approx(list(expected), rel=1e-3)

    write_report([str(once), str(tmp_path / "run")], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "click, next window" in page
    assert "dt=2022-04-27" in page


def test_a_row_that_training_skips_is_not_measured(days: Path, tmp_path: Path) -> None:
    shutil.copytree(days / "all", tmp_path / "log")
    path = tmp_path / "log" / "dt=2022-04-26" / "part-0.parquet"
    table = pq.read_table(path, partitioning=None)
    click = [7, *table["click"].to_pylist()[1:]]
    table = table.set_column(table.schema.get_field_index("click"), "click", pa.array(click, table["click"].type))
    pq.write_table(table, path)
    config = config_of(days, tmp_path / "log", tmp_path / "run", data={"on_bad_value": "skip"}, **NEXT_WINDOW)
    run_on_ranks(1, _train, config)
    examples = [record["examples"] for record in metrics(tmp_path / "run")]
    assert examples == [rows - (day == 26) for day, rows in DAYS.items()]
