"""What an evaluation computes and writes: bucketed sums, metrics by value, fusion weights; the same on any ranks."""

import io
import json
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.errors import DataError
from models.losses import entropy
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.training import evaluation_records
from trainer.analysis.compare.compare import compare_runs
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.evaluation.bucket_sums import read_buckets
from trainer.evaluation.evaluate_run import evaluate_run
from trainer.evaluation.metrics import MetricSums
from trainer.evaluation.row_buckets import BUCKETS, bucket_of
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train


def _train(world: World, config: Config) -> None:
    train(config, world)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    config = make_config(
        dataset,
        run={"dir": str(folder)},
        train={"samples": 640},
        evaluate={"at_samples": [320], "by": ["user", "video"]},
        data={"weight": "weight"},
    )
    run_on_ranks(2, _train, config)
    return RunDirectory(folder)


def _whole(run: RunDirectory, samples: int) -> dict[str, dict[str, Any]]:
    records = [record for record in read_records(run.evaluations) if record["samples"] == samples]
    return {record["task"]: record for record in records if record["by"] is None}


def test_metrics_follow_from_the_buckets(trained: RunDirectory) -> None:
    for samples, milestones in ((320, ["320"]), (640, [])):
        buckets = read_buckets(trained.buckets_file(samples))
        assert (buckets.samples, buckets.milestones) == (samples, milestones)
        for name, record in _whole(trained, samples).items():
            task = buckets.tasks[name]
            examples, weight, loss, _, label, label_squared = task.sums_6K.sum(axis=1)
            assert task.sums_6K.shape == (6, BUCKETS)
            assert examples == record["examples"]
            if task.kind == "binary":
                assert loss / weight / entropy(label / weight) == pytest.approx(record["ne"], rel=1e-12)
            else:
                assert loss / weight == pytest.approx(record["mse"], rel=1e-12)
                variance = label_squared / weight - (label / weight) ** 2
                assert record["nmse"] == pytest.approx(loss / weight / variance, rel=1e-12)


def test_a_row_is_in_the_same_bucket_in_every_run(trained: RunDirectory, dataset: Path) -> None:
    labels = pq.read_table(dataset / "test")["click"].to_numpy()
    numbers = np.arange(len(labels))
    bucket = bucket_of(torch.from_numpy(numbers)).numpy()
    expected = np.bincount(bucket, minlength=BUCKETS)
    found = read_buckets(trained.buckets_file(640)).tasks["click"].sums_6K[0]
    assert found.tolist() == expected.tolist()


def test_buckets_are_filled_evenly() -> None:
    counts = np.bincount(bucket_of(torch.arange(1 << 20)).numpy(), minlength=BUCKETS)
    assert len(counts) == BUCKETS
    assert abs(counts - 1024).max() < 6 * 32  # six standard deviations of a fair hash
    neighbours = bucket_of(torch.arange(1000))
    assert len(set((neighbours[1:] - neighbours[:-1]).tolist())) > 500  # no pattern that a log's order could meet


def test_damaged_buckets_are_an_error(trained: RunDirectory, tmp_path: Path) -> None:
    path = tmp_path / "640.parquet"
    path.write_bytes(trained.buckets_file(640).read_bytes()[:-50])
    with pytest.raises(ConfigError, match="not the buckets of an evaluation"):
        read_buckets(path)
    pq.write_table(pq.read_table(trained.buckets_file(640)).slice(3), path)
    with pytest.raises(ConfigError, match="buckets of task 'watch' are missing"):
        read_buckets(path)


def test_metrics_by_value_equal_those_of_the_rows(trained: RunDirectory, dataset: Path) -> None:
    """Each value's weighted label mean and examples, straight from the file; the whole is the sum of the values."""
    table = pq.read_table(dataset / "test")
    records = [record for record in read_records(trained.evaluations) if record["samples"] == 640]
    for column in ("user", "video"):
        values = np.array(table[column].to_pylist(), dtype=object)
        clicks, weights = table["click"].to_numpy(), table["weight"].to_numpy().astype(np.float64)
        of_click = [record for record in records if record["by"] == column and record["task"] == "click"]
        assert [record["value"] for record in of_click] == sorted(set(values.tolist()))
        for record in of_click:
            chosen = values == record["value"]
            assert record["examples"] == chosen.sum()
            mean = (clicks[chosen] * weights[chosen]).sum() / weights[chosen].sum()
            assert record["label_mean"] == pytest.approx(mean, rel=1e-9)
        whole = _whole(trained, 640)["click"]
        loss = sum(record["log_loss"] * record["weight"] for record in of_click)
        assert loss / whole["weight"] == pytest.approx(whole["log_loss"], rel=1e-9)


def _evaluate(world: World, run: str) -> list[dict[str, Any]]:
    return evaluation_records(run, "640", None, world)


@pytest.mark.parametrize("size", [1, 4])
def test_any_ranks_find_the_same(trained: RunDirectory, size: int) -> None:
    expected = [record for record in read_records(trained.evaluations) if record["samples"] == 640]
    found = run_on_ranks(size, _evaluate, str(trained.path))[0]
    assert len(found) == len(expected) > 200
    for one, other in zip(expected, found, strict=True):
        assert (one["by"], one["value"], one["task"], one["examples"]) == (
            other["by"],
            other["value"],
            other["task"],
            other["examples"],
        )
        for key in ("ne", "ne_recalibrated", "log_loss", "mse", "calibration"):
            assert (one[key] is None) == (other[key] is None)
            if one[key] is not None:
                assert one[key] == pytest.approx(other[key], rel=1e-6)


def _evaluate_at(world: World, run: str, checkpoint: str, data: str | None) -> list[dict[str, Any]]:
    return evaluation_records(run, checkpoint, data, world)


def test_an_evaluation_by_hand_leaves_the_same_sums(trained: RunDirectory) -> None:
    path = trained.buckets_file(320)
    expected = read_buckets(path)
    path.unlink()
    run_on_ranks(2, _evaluate_at, str(trained.path), "320", None)  # as many as trained it: equal to the bit
    found = read_buckets(path)
    assert (found.milestones, found.fingerprint) == (expected.milestones, expected.fingerprint)
    for name, task in expected.tasks.items():
        np.testing.assert_array_equal(found.tasks[name].sums_6K, task.sums_6K)


def test_runs_compare_on_another_test_set(trained: RunDirectory, dataset: Path) -> None:
    run, data = str(trained.path), str(dataset / "train")
    with pytest.raises(ConfigError, match=r"not evaluated on .*; do that first: adatt evaluate .* --data "):
        compare_runs(run, [run], data)
    records = run_on_ranks(1, _evaluate_at, run, "320", data)[0]
    comparison = compare_runs(run, [run], data)
    assert {entry.milestone for entry in comparison.differences} == {"320"}
    assert {entry.relative_percent for entry in comparison.differences} == {0.0}
    values = {entry.task: entry.value for entry in comparison.differences}
    whole = {record["task"]: record for record in records if record["by"] is None}
    assert values["click"] == pytest.approx(whole["click"]["ne"], rel=1e-9)
    assert {entry.milestone for entry in compare_runs(run, [run]).differences} == {"320", None}


def test_recalibrated_ne_is_that_of_the_whole_set(trained: RunDirectory) -> None:
    for task, record in _whole(trained, 640).items():
        if task == "watch":
            assert record["ne_recalibrated"] is None
        else:
            assert record["ne"] - 0.1 < record["ne_recalibrated"] <= record["ne"]
    assert not any(record["ne_recalibrated"] for record in read_records(trained.evaluations) if record["by"])


def test_auc_is_exact_for_a_small_set(trained: RunDirectory) -> None:
    for task, record in _whole(trained, 640).items():
        assert record["auc_error"] == (None if task == "watch" or record["auc"] is None else 0.0)


def test_auc_by_value_is_exact_for_a_small_set(trained: RunDirectory) -> None:
    """Values have few rows, so that an AUC is a fraction with a small denominator, which bins would miss."""
    records = [record for record in read_records(trained.evaluations) if record["by"] == "user"]
    of_click = [record for record in records if record["task"] == "click" and record["auc"] is not None]
    assert len(of_click) > 40
    assert {record["auc_error"] for record in of_click} == {0.0}


def test_fusion_weights_are_those_of_the_head(trained: RunDirectory) -> None:
    levels = json.loads(trained.fusion_file(640).read_text())["levels"]
    assert len(levels) == 2
    tasks = ["watch", "click", "rare"]
    assert levels[0]["units"] == [*tasks, "shared"]
    assert levels[1]["units"] == tasks
    for level in levels:
        assert np.shape(level["weights"]) == (len(level["units"]), len(level["experts"]))
        assert len(level["experts"]) == 7
    found = run_on_ranks(1, _fusion_of_all_rows, str(trained.path))[0]
    for level, expected in zip(levels, found, strict=True):
        np.testing.assert_allclose(level["weights"], expected, rtol=1e-5, atol=1e-7)


def _fusion_of_all_rows(world: World, path: str) -> list[Any]:
    """Means of `Head.fusion_weights`, batch by batch, on one rank."""
    from data.stream import stream
    from trainer.build_model import build_sharded_model
    from trainer.checkpoint.manager import Checkpoints
    from trainer.checkpoint.storage import LocalFolder
    from trainer.datasets import open_dataset, test_reading

    run = RunDirectory(path)
    config = run.read_config()
    reading = test_reading(config, open_dataset(config.data.test, config, world), world.size, {})
    sharded = build_sharded_model(config, world, 640)
    checkpoints = Checkpoints(LocalFolder(run.checkpoints), world)
    checkpoints.load(checkpoints.find("640"), sharded.model, None)
    ranker: Any = sharded.model.eval().module
    sums: list[torch.Tensor] = []
    batches = stream(reading, range(reading.lanes), 0)
    rows = 0
    with torch.no_grad():
        for batch in batches:
            features_BF = ranker.features(batch.sparse, batch.dense_BD)
            weights = [part[batch.row_ids_B >= 0].sum(dim=0) for part in ranker.head.fusion_weights(features_BF)]
            sums = [one + other for one, other in zip(sums, weights, strict=True)] if sums else weights
            rows += int((batch.row_ids_B >= 0).sum())
    batches.close()
    return [(total / rows).tolist() for total in sums]


def test_calibration_along_the_predictions_is_that_of_the_test_set(trained: RunDirectory) -> None:
    curves = json.loads(trained.calibration_file(640).read_text())["tasks"]
    assert [curve["task"] for curve in curves] == ["click", "rare"]
    for curve in curves:
        record = _whole(trained, 640)[curve["task"]]
        sizes = _sizes(curve["share"])
        assert len(sizes) in (9, 10)  # rows whose predictions are nearly alike stay in one group
        assert sum(sizes) == pytest.approx(1)
        assert np.dot(sizes, curve["observed"]) == pytest.approx(record["label_mean"], rel=1e-6)
        assert np.dot(sizes, curve["predicted"]) == pytest.approx(record["prediction_mean"], rel=1e-3)


def _sizes(middles: list[float]) -> list[float]:
    """Shares of groups that lie end to end, from the middle of each."""
    sizes: list[float] = []
    for middle in middles:
        sizes.append(2 * (middle - sum(sizes)))
    return sizes


def test_training_records_have_window_metrics_and_gate_entropies(trained: RunDirectory) -> None:
    record = read_records(trained.train_log)[-1]
    assert record["ne/click"] > 0
    assert record["mse/watch"] == record["loss/watch"]
    assert record["calibration/click"] > 0
    entropies = {key: value for key, value in record.items() if key.startswith("gate_entropy/")}
    assert set(entropies) == {
        *(f"gate_entropy/0/{unit}" for unit in ("watch", "click", "rare", "shared")),
        *(f"gate_entropy/1/{unit}" for unit in ("watch", "click", "rare")),
    }
    assert all(0 < value <= 1 for value in entropies.values())


def test_a_task_whose_labels_are_alike_has_no_ne() -> None:
    for label in (0.0, 1.0):
        sums = MetricSums(torch.tensor([True]))
        sums.add(torch.tensor([[0.3], [-2.0]]), torch.full((2, 1), label), torch.ones(2, 1))
        (metrics,) = sums.compute()
        assert metrics.ne is None
        assert metrics.auc is None
        assert metrics.log_loss is not None
        assert np.isfinite(metrics.log_loss)


def test_labels_that_are_alike_have_no_variance() -> None:
    sums = MetricSums(torch.tensor([False]))
    sums.add(torch.randn(999, 1), torch.full((999, 1), 0.1), torch.rand(999, 1))
    assert sums.compute()[0].nmse is None


def _told(world: World, run: str, data: str) -> str:
    with pytest.raises(DataError) as caught:
        evaluate_run(run, "640", data, world)
    return str(caught.value)


def test_a_wrong_row_of_one_rank_is_raised_on_all(trained: RunDirectory, dataset: Path, tmp_path: Path) -> None:
    table = pq.read_table(dataset / "test")
    clicks = table["click"].to_numpy().copy()
    clicks[900] = 7
    (tmp_path / "data").mkdir()
    wrong = table.set_column(table.schema.get_field_index("click"), "click", pa.array(clicks, pa.int8()))
    pq.write_table(wrong, tmp_path / "data" / "part.parquet")
    first, second = run_on_ranks(2, _told, str(trained.path), str(tmp_path / "data"))
    assert first == second
    assert "label 'click' is 7" in first


def test_text_that_cannot_be_decoded_is_raised_on_all(trained: RunDirectory, dataset: Path, tmp_path: Path) -> None:
    table = pq.read_table(dataset / "test")
    wrong = pa.array([b"\xff"] * len(table), pa.binary()).view(pa.string())
    (tmp_path / "data").mkdir()
    place = table.schema.get_field_index("user")
    pq.write_table(
        table.append_column("text", wrong).remove_column(place).append_column("user", table["user"]),
        tmp_path / "data" / "part.parquet",
    )
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace('"video",\n]', '"text",\n]'))
    first, second = run_on_ranks(2, _told, str(run), str(tmp_path / "data"))
    assert first == second
    assert "part.parquet: cannot be read" in first


def _standard_error(world: World, run: str, data: str | None) -> str:
    with redirect_stderr(io.StringIO()) as told:
        evaluate_run(run, "latest", data, world)
    return told.getvalue()


def test_what_is_not_defined_is_a_warning(trained: RunDirectory, dataset: Path, tmp_path: Path) -> None:
    table = pq.read_table(dataset / "test")
    ones, nulls = pa.array(np.ones(len(table)), pa.int8()), pa.nulls(len(table), pa.int8())
    for name, values in (("click", ones), ("rare", nulls)):
        table = table.set_column(table.schema.get_field_index(name), name, values)
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "part.parquet")
    lines = run_on_ranks(1, _standard_error, str(trained.path), str(tmp_path / "data"))[0].splitlines()
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert [line for line in warnings if "would do as well" not in line] == [
        "warning: all labels of task 'click' in the test set are alike: NE is not defined",
        "warning: no row of the test set counts for task 'rare': it has no metrics",
    ]


def test_a_damaged_newest_checkpoint_is_a_warning(trained: RunDirectory, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    (run / "checkpoints" / "640" / ".metadata").unlink()
    told = run_on_ranks(1, _standard_error, str(run), None)[0]
    (warning,) = [line for line in told.splitlines() if line.endswith("; 320 is used instead")]
    assert warning.startswith("warning: ")
    assert "640" in warning
