"""What was copied from another run is noticed by every command that reads it; what is the run's own is not."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data.errors import ExpectedError
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.analysis.audit.audit import audit_run
from trainer.analysis.compare.seed_groups import read_run
from trainer.checkpoint.storage import STATE_FILE, read_state
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.evaluation.evaluate_run import evaluate_run
from trainer.prediction.predict import predict_run
from trainer.run.directory import RunDirectory
from trainer.train import train

NEWEST = "640"


@dataclass(frozen=True)
class Runs:
    """Two trainings that end at 640 samples and differ in the seed, and one that differs in nothing but its id."""

    own: Path
    other_seed: Path
    twin: Path


def _config(dataset: Path, folder: Path, seed: int = 17, samples: int = 640) -> Config:
    return make_config(
        dataset,
        run={"dir": str(folder), "seed": seed, "trace": True},
        train={"samples": samples},
        checkpoint={"every_samples": 320},
    )


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    parent = tmp_path_factory.mktemp("runs")
    found = Runs(parent / "own", parent / "other-seed", parent / "twin")
    configs = [_config(dataset, found.own), _config(dataset, found.other_seed, seed=5), _config(dataset, found.twin)]
    run_on_ranks(1, _train_all, configs)
    return found


def _train_all(world: World, configs: list[Config]) -> None:
    for config in configs:
        train(config, world)


def _told(world: World, dataset: Path, folder: Path) -> list[str]:
    """What evaluate, predict and train say."""
    commands: list[Callable[[], Any]] = [
        lambda: evaluate_run(str(folder), "latest", None, world),
        lambda: predict_run(str(folder), "latest", str(dataset / "test"), str(folder / "scores"), "", world),
        lambda: train(_config(dataset, folder, samples=704), world),
    ]
    told = []
    for command in commands:
        try:
            command()
        except ExpectedError as error:
            told.append(str(error))
        else:
            told.append("")
    return told


def _copy(source: Path, target: Path, *parts: str) -> None:
    """Replaces a part of a run by that of another."""
    if target.joinpath(*parts).is_dir():
        shutil.rmtree(target.joinpath(*parts))
        shutil.copytree(source.joinpath(*parts), target.joinpath(*parts))
    else:
        shutil.copy(source.joinpath(*parts), target.joinpath(*parts))


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "lock"}


def _edit_state(folder: Path, **changes: Any) -> None:
    checkpoint = folder / "checkpoints" / NEWEST
    (checkpoint / STATE_FILE).write_text(dataclasses.replace(read_state(checkpoint), **changes).to_json())


@pytest.mark.parametrize(("ranks", "source", "why"), [(1, "twin", "its id is '"), (2, "other_seed", "run.seed is 5 ")])
def test_a_checkpoint_of_another_run_is_refused_by_all(
    dataset: Path, runs: Runs, tmp_path: Path, ranks: int, source: str, why: str
) -> None:
    folder = shutil.copytree(runs.own, tmp_path / "run")
    _copy(getattr(runs, source), folder, "checkpoints", NEWEST)
    before = _times(folder)
    for told in run_on_ranks(ranks, _told, dataset, folder):
        assert len(told) == 3
        for line in told:
            assert line.startswith(f"{folder}/checkpoints/{NEWEST}: is a checkpoint of another run ({why}")
            assert "\n" not in line
    assert _times(folder) == before
    (broken,) = audit_run(folder).promises_broken
    assert broken.startswith(f"checkpoint {folder}/checkpoints/{NEWEST}: is a checkpoint of another run ({why}")


def test_a_checkpoint_on_other_data_is_refused(dataset: Path, runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.own, tmp_path / "run")
    _edit_state(folder, fingerprints={"train": "f00d", "test": "f00d"}, run=None)
    for line in run_on_ranks(1, _told, dataset, folder)[0]:
        assert "is a checkpoint of another run (data.train has fingerprint 'f00d' there, " in line


def test_a_moved_run_and_one_from_before_there_were_ids_go_on(dataset: Path, runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.own, tmp_path / "run")
    (folder / "identity").unlink()
    for path in (folder / "checkpoints").iterdir():
        values = json.loads((path / STATE_FILE).read_text())
        del values["digest"]
        (path / STATE_FILE).write_text(_without_id(values))
    records = [json.loads(line) for line in (folder / "segments.jsonl").read_text().splitlines()]
    for record in records:
        del record["run"]
    (folder / "segments.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert run_on_ranks(1, _told, dataset, folder) == [["", "", ""]]
    identity = (folder / "identity").read_text().strip()
    assert read_state(folder / "checkpoints" / "704").run == identity
    moved = folder.rename(tmp_path / "moved")
    assert run_on_ranks(1, _told, dataset, moved) == [["", "--out " + str(moved / "scores") + _IN_USE, ""]]


_IN_USE = " is not empty; choose another folder or remove it"


def _without_id(values: dict[str, Any]) -> str:
    """The state as the first format wrote it."""
    from trainer.checkpoint.state import _digest_of

    del values["run"]
    values["format"] = 1
    return json.dumps(values | {"digest": _digest_of(values)}, indent=1) + "\n"


def test_starts_of_another_run(dataset: Path, runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.own, tmp_path / "run")
    _copy(runs.twin, folder, "segments.jsonl")
    assert "is of a start of another run (its id is" in run_on_ranks(1, _told, dataset, folder)[0][2]
    assert "start 0 is of another run (its id is" in audit_run(folder).promises_broken[0]


def test_a_checkpoint_that_the_starts_do_not_lead_to(dataset: Path, runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.own, tmp_path / "run")
    _edit_state(folder, segment=3)
    expected = f"checkpoints/{NEWEST}: was written by start 3, counted from 0, but segments.jsonl knows 1"
    assert expected in run_on_ranks(1, _told, dataset, folder)[0][2]
    assert expected in audit_run(folder).promises_broken[0]


def test_a_lost_id_is_told(dataset: Path, runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.own, tmp_path / "run")
    (folder / "identity").unlink()
    for line in run_on_ranks(1, _told, dataset, folder)[0]:
        assert "RUN/identity is missing" in line


def test_an_evaluation_of_another_run(runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.own, tmp_path / "run")
    read_run(str(folder))
    _copy(runs.twin, folder, "evaluations", f"{NEWEST}.parquet")
    with pytest.raises(ExpectedError, match="is an evaluation of another run"):
        read_run(str(folder))


def test_a_trace_of_another_run(runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.own, tmp_path / "run")
    assert audit_run(folder).promises_broken == ()
    name = RunDirectory(folder).trace_file(0, 0).name
    _copy(runs.twin, folder, "trace", name)
    assert audit_run(folder).promises_broken == (f"start 0: {name} is a trace of another run",)
