"""What may be asked of a run that has gone some way: further passes, milestones behind it, checkpoints by any count."""

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.errors import ExpectedError
from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values, make_config, write_dataset
from tests.trainer.training import train_or_explain
from trainer.analysis.audit.audit import audit_run
from trainer.checkpoint.selection import checkpoint_name
from trainer.checkpoint.storage import list_folders
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.milestones import missed_milestones
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

ROWS, PASS = 600, 576  # 64 × 9


def _config(folder: Path, run: Path, **sections: Any) -> Config:
    values: dict[str, Any] = {
        "run": {"dir": str(run), "trace": True},
        "train": {"samples": ROWS},
        "evaluate": {"at_samples": ["0.3k", "600"]},
        "checkpoint": {"every_samples": 64, "keep": 2},
    }
    return make_config(folder, **(values | sections))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a run that has made its pass."""
    folder = tmp_path_factory.mktemp("again")
    write_dataset(folder / "train", ROWS, seed=1)
    write_dataset(folder / "test", 100, seed=2)
    assert run_on_ranks(1, train_or_explain, _config(folder, folder / "run")) == [None]
    assert list_folders(folder / "run" / "checkpoints") == ["320", "448", "512", "576"]
    return folder


def test_a_finished_pass_takes_a_second_one(folder: Path, tmp_path: Path) -> None:
    """As if both had been asked for at once, but for the evaluation at the end of the first."""
    two_passes: dict[str, Any] = {"data": {"repeat": True}, "train": {"samples": 1000}}
    at_once, run = tmp_path / "at-once", shutil.copytree(folder / "run", tmp_path / "run")
    for path in (at_once, run):
        assert run_on_ranks(1, train_or_explain, _config(folder, path, **two_passes)) == [None]
    weights = [sorted((path / "checkpoints" / "1024").glob("*.distcp")) for path in (at_once, run)]
    assert [file.read_bytes() for file in weights[0]] == [file.read_bytes() for file in weights[1]]
    evaluated = {(record["samples"], record["milestone"]) for record in read_records(run / "evaluations.jsonl")}
    assert evaluated == {(320, "0.3k"), (PASS, "600"), (1024, None)}
    audit = audit_run(run)
    assert audit.promises_broken == ()
    assert [(entry.trained_once, entry.traced) for entry in audit.epochs] == [(PASS, PASS), (448, 448)]
    message = run_on_ranks(1, train_or_explain, _config(folder, run))[0]
    assert message == "train.samples ends the run at 576, but it is at 1,024 already; train longer"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("latest", "latest"),
        ("576", "576"),
        ("600", "576"),
        ("0.6k", "576"),
        ("0.3k", "320"),
        ("300", "320"),
        ("257", "320"),
        ("0.5k", "512"),
        ("5_00", "512"),
        ("newest", "newest"),
    ],
)
def test_a_checkpoint_is_found_by_its_milestone_or_a_count(folder: Path, text: str, found: str) -> None:
    run = RunDirectory(folder / "run")
    assert checkpoint_name(text, run, run.read_config()) == found


@pytest.mark.parametrize(("text", "samples"), [("256", "256"), ("0.1k", "128"), ("577", "576"), ("20k", "20,032")])
def test_a_count_without_a_checkpoint_is_told(folder: Path, tmp_path: Path, text: str, samples: str) -> None:
    run = RunDirectory(shutil.copytree(folder / "run", tmp_path / "run"))
    shutil.rmtree(run.checkpoints / "576")
    expected = rf"^--checkpoint {text}: no checkpoint of .*/run at {samples} samples; there are 320, 448, 512$"
    with pytest.raises(ExpectedError, match=expected):
        checkpoint_name(text, run, run.read_config())


def test_a_milestone_behind_the_run_is_told_with_what_can_be_done(folder: Path) -> None:
    run = RunDirectory(folder / "run")
    config = _config(folder, run.path, evaluate={"at_samples": ["100", "300", "0.5k", "550", "600"]})
    told = list(missed_milestones(config, run, list_folders(run.checkpoints), PASS, PASS))
    assert [line.split(" lies")[0] for line in told] == ["milestone 100", "milestone 300", "milestone 0.5k"]
    command = f"`adatt evaluate {run.path} --checkpoint"
    assert told[0].endswith(
        f"no checkpoint is left at 128: {command} 320` evaluates the next one; "
        "only a run in another folder can evaluate the milestone"
    )
    assert told[2].endswith(f"a checkpoint is left there: {command} 512` evaluates it")


def _said(world: World, config: Config) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        train(config, world)
    return out.getvalue()


def test_the_warning_reaches_the_user(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "run", tmp_path / "run")
    config = _config(folder, run, evaluate={"at_samples": ["100", "0.3k", "600"]})
    assert run_on_ranks(1, _said, config)[0].count("milestone 100 lies before 576 samples") == 1


def test_a_crowded_table_is_told_at_the_first_start(folder: Path, tmp_path: Path) -> None:
    config = _config(folder, tmp_path / "run", train={"samples": 64}, evaluate={})
    said = " ".join(run_on_ranks(1, _said, config)[0].split())
    expected = "table 'video' has 64 rows for 30 ids (all rows): about 37% of them, and of the lookups, are"
    assert said.count(f"warning: {expected}") == 1
    assert "warning: table" not in run_on_ranks(1, _said, config)[0]


CHANGES: dict[str, tuple[Any, str]] = {
    "a task more": (lambda tasks: [*tasks, {**tasks[1], "name": "like"}], "tasks was without 'like', now with 'like'"),
    "a task less": (lambda tasks: tasks[:2], "tasks was with 'rare', now without 'rare'"),
    "one for two": (
        lambda tasks: [*tasks[:1], {**tasks[1], "name": "like"}],
        "tasks was with 'click', 'rare', now with 'like'",
    ),
    "a leaf": (
        lambda tasks: [tasks[0], {**tasks[1], "auxiliary": True}, tasks[2]],
        "tasks.1.auxiliary was False, now True",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_list_is_told_by_what_differs(folder: Path, case: str) -> None:
    change, expected = CHANGES[case]
    run = RunDirectory(folder / "run")
    values = config_values(folder)
    values["tasks"] = change(values["tasks"])
    with pytest.raises(ExpectedError) as raised:
        run.check(parse_config(values, "test"))
    assert f"holds a run of another config: {expected}; name another folder" in str(raised.value)


def test_other_lists_and_missing_values_are_told(folder: Path) -> None:
    run = RunDirectory(folder / "run")
    for changes, expected in (
        ({"model": {"levels": [[16]]}}, "model.levels was with [8], now without [8]"),
        ({"model": {"tower": [8, 8]}}, "model.tower was 1 entries, now 2 entries"),
        ({"data": {"weight": "weight"}}, "data.weight was not set, now 'weight'"),
    ):
        with pytest.raises(ExpectedError, match=expected.replace("[", r"\[")):
            run.check(make_config(folder, **changes))
