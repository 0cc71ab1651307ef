"""Starting the same command again: what may change, what is refused, and where the disk or the clock is at its end."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.errors import ExpectedError
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.analysis.audit.audit import audit_run
from trainer.checkpoint.storage import STATE_FILE, list_folders, read_state
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError, RunError
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

VIDEO_TABLE = {"name": "video", "rows": 64, "dim": 4}


def _train(world: World, config: Config) -> str | None:
    try:
        train(config, world)
    except (ExpectedError, RunError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run_on_ranks(1, _train, _config(dataset, folder)) == [None]
    return folder


def _config(dataset: Path, folder: Path, **sections: Any) -> Config:
    sections.setdefault("train", {"samples": 640})
    return make_config(dataset, run={"dir": str(folder)}, **sections)


def test_new_milestones_and_a_longer_training_are_allowed(dataset: Path, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    changes: dict[str, Any] = {
        "train": {"samples": 1280},
        "evaluate": {"at_samples": [960]},
        "log": {"every_samples": 320},
        "checkpoint": {"every_minutes": 1e-6},
    }
    assert run_on_ranks(1, _train, _config(dataset, folder, **changes)) == [None]
    evaluated = {(record["samples"], record["milestone"]) for record in read_records(folder / "evaluations.jsonl")}
    assert evaluated == {(640, None), (960, "960"), (1280, None)}
    assert len(list_folders(folder / "checkpoints")) > 4  # every_minutes has come at every step: keep 3, and the pinned


@pytest.mark.parametrize(
    ("sections", "part"),
    [
        ({"run": {"seed": 5}}, "run.seed was 17, now 5"),
        ({"data": {"lanes": 2}}, "data.lanes was 4, now 2"),
        ({"data": {"block_rows": 50}}, "data.block_rows was 32768, now 50"),
        (
            {"optimizer": {"dense": {"learning_rate": 0.5, "decay": "none"}}},
            "optimizer.dense.learning_rate was 0.001, now 0.5",
        ),
        (
            {"tables": [{"name": "user", "rows": 50, "dim": 8, "optimizer": {"eps": 0.5}}, VIDEO_TABLE]},
            "tables.0.optimizer.eps was not set, now 0.5; name",
        ),
        (
            {"tables": [{"name": "user", "rows": 50, "dim": 8, "optimizer": {"learning_rate": 0.5}}, VIDEO_TABLE]},
            "tables.0.optimizer.learning_rate was not set, now 0.5; allow it (--allow-change",
        ),
        ({"train": {"samples": 320}}, "ends the run at 320, but it is at 640"),
    ],
)
def test_other_changes_of_the_config_are_refused(
    dataset: Path, trained: Path, tmp_path: Path, sections: dict[str, Any], part: str
) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    sections = {name: values if isinstance(values, list) else dict(values) for name, values in sections.items()}
    sections["run"] = {"dir": str(folder), **sections.get("run", {})}
    sections.setdefault("train", {"samples": 640})
    assert part in str(run_on_ranks(1, _train, make_config(dataset, **sections))[0])


@pytest.mark.parametrize("world_size", [1, 2])
def test_what_is_learned_how_fast_may_change_when_asked_for(
    dataset: Path, trained: Path, tmp_path: Path, world_size: int
) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    key = "optimizer.dense.learning_rate"
    slower: dict[str, Any] = {"optimizer": {"dense": {"learning_rate": 1e-5, "decay": "none"}}}
    longer = {"train": {"samples": 960}}
    (refused, *_) = run_on_ranks(world_size, _train, _config(dataset, folder, **slower, **longer))
    assert f"{key} was 0.001, now 1e-05; allow it (--allow-change {key}), or resume with its own" in str(refused)

    config = make_config(dataset, run={"dir": str(folder), "allow_change": [key]}, **slower, **longer)
    assert run_on_ranks(world_size, _train, config) == [None] * world_size
    events = [event for event in read_records(folder / "events.jsonl") if event["event"] == "config_change"]
    assert [(event["samples"], event["key"], event["before"], event["now"]) for event in events] == [
        (640, key, "0.001", "1e-05")
    ]
    assert RunDirectory(folder).read_config().optimizer.dense.learning_rate == 1e-5
    assert "allow_change" not in (folder / "config.toml").read_text()

    last = {"train": {"samples": 1280}}
    assert run_on_ranks(1, _train, _config(dataset, folder, **slower, **last)) == [None], "it is the run's now"
    records = read_records(folder / "train.jsonl")
    rates = {record["samples"]: record["learning_rate"] for record in records}
    assert {rate for samples, rate in rates.items() if samples <= 640} == {1e-3}
    assert {rate for samples, rate in rates.items() if samples > 640} == {1e-5}
    audit = audit_run(folder)
    assert audit.promises_broken == ()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("data.lanes", "data.lanes may not change in a run: it decides which rows share a batch; train in another"),
        ("model.levels", "model.levels may not change in a run: the head's weights fit no other"),
        ("optimizer.sparse.name", "optimizer.sparse.name may not change in a run: its state fits no other"),
        ("tables.0.optimizer.eps", "may not change in a run: their rows and state fit no other"),
        ("checkpoint.keep", "checkpoint.keep may change without being asked for"),
        ("optimiser.dense.learning_rate", "may not change in a run: there is no such key"),
    ],
)
def test_what_may_not_change_says_why(tmp_path: Path, key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_config(tmp_path, run={"dir": str(tmp_path / "run"), "allow_change": [key]})
    assert reason in str(error.value)


def test_memory_may_change_since_blocks_stay_as_they_were(dataset: Path, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    changes: dict[str, Any] = {"train": {"samples": 1280}, "data": {"memory": "1kB"}}
    assert run_on_ranks(1, _train, _config(dataset, folder, **changes)) == [None]
    assert RunDirectory(folder).read_config().data.block_rows == 32768
    error = run_on_ranks(1, _train, _config(dataset, tmp_path / "new", **changes))[0]
    assert "data.memory = 1,000 bytes are too few: 4 lanes on a rank need about" in str(error)
    assert not (tmp_path / "new").exists()


def test_a_changed_dataset_is_refused_by_file_and_a_moved_one_is_not(
    dataset: Path, trained: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(dataset, tmp_path / "moved")
    longer = {"train": {"samples": 1280}}
    folder = shutil.copytree(trained, tmp_path / "run")
    assert run_on_ranks(1, _train, _config(moved, folder, **longer)) == [None]
    part = moved / "train" / "part-1.parquet"
    pq.write_table(pq.read_table(part).slice(1), part)
    message = str(run_on_ranks(1, _train, _config(moved, folder, **longer))[0])
    assert message.startswith("DataError: data.train = ")
    assert "part-1.parquet has 3,999 rows" in message


def test_an_evaluation_cut_short_is_done_again(dataset: Path, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    records = folder / "evaluations.jsonl"
    whole = records.read_text()
    records.write_text("".join(whole.splitlines(keepends=True)[:1]) + '{"samples": 640, "mile')
    assert run_on_ranks(1, _train, _config(dataset, folder)) == [None]
    tasks = [record["task"] for record in read_records(records)]
    assert tasks == ["watch", "click", "rare"]


def test_a_finished_run_started_again_changes_nothing(dataset: Path, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    before = {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()}
    lines = (folder / "evaluations.jsonl").read_text()
    assert run_on_ranks(1, _train, _config(dataset, folder)) == [None]
    assert {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()} == before
    assert (folder / "evaluations.jsonl").read_text() == lines


def test_the_clock_crosses_70_billion(dataset: Path, trained: Path, tmp_path: Path) -> None:
    """The run is made to stand a few batches before the milestone; floats of 32 bits could not tell these batches."""
    folder = shutil.copytree(trained, tmp_path / "run")
    near = 70_000_000_000 - 70_000_000_000 % 64 - 10 * 64
    checkpoint = folder / "checkpoints" / "640"
    state = dataclasses.replace(read_state(checkpoint), samples=near, log={"sums": [[0.0] * 3] * 4})
    state.config["data"]["repeat"] = True
    (checkpoint / STATE_FILE).write_text(state.to_json())
    checkpoint.rename(folder / "checkpoints" / str(near))
    (folder / "config.toml").write_text((folder / "config.toml").read_text().replace("repeat = false", "repeat = true"))
    config = _config(
        dataset,
        folder,
        data={"repeat": True},
        train={"samples": "70.00001B"},
        evaluate={"at_samples": ["70B"]},
    )
    assert run_on_ranks(2, _train, config) == [None, None]
    milestone, end = 70_000_000_000, 70_000_010_000 - 70_000_010_000 % -64
    milestone -= milestone % -64
    evaluated = {(record["samples"], record["milestone"]) for record in read_records(folder / "evaluations.jsonl")}
    assert {(milestone, "70B"), (end, None)} <= evaluated
    trained_at = [record["samples"] for record in read_records(folder / "train.jsonl") if record["samples"] > near]
    assert trained_at == list(range(near + 64, end + 1, 64))
    assert list_folders(folder / "checkpoints")[-2:] == [str(milestone), str(end)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_training_goes_on_where_a_checkpoint_does_not_fit(dataset: Path, tmp_path: Path, small_disk: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = _config(dataset, folder, train={"samples": 3200}, checkpoint={"every_samples": 320, "keep": 100})
    (folder / "checkpoints").symlink_to(small_disk)
    message = str(run_on_ranks(2, _train_into, config)[0])
    assert message.startswith("RunError: ")
    assert "no space left on device" in message
    saved = list_folders(folder / "checkpoints")
    assert saved
    assert not list(small_disk.glob("*.partial"))
    assert read_records(folder / "train.jsonl")[-1]["samples"] == 3200  # it went on
    (folder / "checkpoints").unlink()
    shutil.copytree(small_disk, folder / "checkpoints")  # a larger disk
    assert run_on_ranks(2, _train, config) == [None, None]
    whole = _config(dataset, tmp_path / "whole", train={"samples": 3200})
    assert run_on_ranks(2, _train, whole) == [None, None]
    losses = [
        torch.tensor([record["loss"] for record in read_records(run / "train.jsonl")][-10:])
        for run in (folder, tmp_path / "whole")
    ]
    assert torch.equal(*losses)


def _train_into(world: World, config: Config) -> str | None:
    """Without the check that the folder is new: it holds a link to the small disk."""
    RunDirectory.check = lambda *_: None  # type: ignore[method-assign, assignment]
    return _train(world, config)


def test_a_run_on_a_full_disk_ends_cleanly(dataset: Path, tmp_path: Path, small_disk: Path) -> None:
    config = _config(dataset, small_disk / "run", train={"samples": 3200}, checkpoint={"every_samples": 320})
    (small_disk / "other").write_bytes(bytes(800_000))
    codes = run_on_ranks(1, _command, config, str(tmp_path))
    assert codes[0][0] == 1, codes[0][1]
    assert codes[0][1].count("error:") == 1
    assert "Traceback" not in codes[0][1]
    assert os.path.isdir(small_disk / "run")


def _command(_: World, config: Config, folder: str) -> tuple[int, str]:
    import contextlib
    import io

    import tomli_w
    import torch.distributed as dist

    from trainer.cli.app import run
    from trainer.config.compatibility import plain

    dist.destroy_process_group()  # the command starts its own
    path = Path(folder) / "config.toml"
    path.write_text(tomli_w.dumps(plain(config)))
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = run(["train", str(path)])
    return code, errors.getvalue()


def test_a_start_of_a_run_that_is_being_trained_is_refused(dataset: Path, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    config = _config(dataset, folder, train={"samples": 1280})
    with RunDirectory(folder).locked():
        before = sorted(path.name for path in (folder / "checkpoints").iterdir())
        message = str(run_on_ranks(2, _train, config)[1])
        assert f"is being trained by process {os.getpid()} on " in message
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == before
    assert run_on_ranks(2, _train, config) == [None, None]


def test_a_lock_that_cannot_be_written_is_told(dataset: Path, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "lock").unlink()
    (folder / "lock").mkdir()  # no permission keeps the tests' user out
    message = str(run_on_ranks(2, _train, _config(dataset, folder, train={"samples": 1280}))[1])
    assert "lock: is a folder, but a file of the run is called so" in message


def test_a_start_that_ended_before_it_had_a_config_is_no_obstacle(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "config.partial").write_text("[run")
    assert run_on_ranks(1, _train, _config(dataset, folder)) == [None]


def test_a_milestone_where_the_run_stands_is_kept_for_good(dataset: Path, tmp_path: Path) -> None:
    """Stopped at 320 samples, it is told that 320 is a milestone, and that 64 was one."""
    folder = tmp_path / "run"
    options: dict[str, Any] = {"checkpoint": {"every_samples": 320, "keep": 1}}
    assert run_on_ranks(1, _train, _config(dataset, folder, **options)) == [None]
    shutil.rmtree(folder / "checkpoints" / "640")
    options |= {"train": {"samples": 1280}, "evaluate": {"at_samples": [64, 320]}}
    assert run_on_ranks(1, _train, _config(dataset, folder, **options)) == [None]
    assert read_state(folder / "checkpoints" / "320").pinned
    milestones = {record["milestone"] for record in read_records(folder / "evaluations.jsonl")}
    assert milestones == {"320", None}


def test_a_first_batch_left_out_can_be_resumed_from(dataset: Path, tmp_path: Path) -> None:
    """The dense optimizer has made no step yet when this is saved."""
    shutil.copytree(dataset, tmp_path / "data")
    path = tmp_path / "data" / "train" / "part-0.parquet"
    table = pq.read_table(path)
    watch = table["watch"].to_numpy().copy()
    watch[:64] = 1e30
    index = table.schema.get_field_index("watch")
    pq.write_table(table.set_column(index, "watch", pa.array(watch, pa.float32())), path)
    config = _config(
        tmp_path / "data",
        tmp_path / "run",
        data={"order": "stored", "lanes": 1},
        train={"samples": 256, "on_non_finite": "skip"},
        checkpoint={"every_samples": 64, "keep": 9},
    )
    assert run_on_ranks(1, _train, config) == [None]
    for name in ("128", "192", "256"):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / name)
    before = read_state(tmp_path / "run" / "checkpoints" / "64")
    assert run_on_ranks(1, _train, config) == [None]
    assert read_state(tmp_path / "run" / "checkpoints" / "64") == before


def test_files_that_become_unreadable_or_readable_between_starts(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    part = tmp_path / "data" / "train" / "part-1.parquet"
    whole = part.read_bytes()
    skip = {"data": {"on_bad_file": "skip", "bad_row_groups": 100}}
    config = _config(tmp_path / "data", tmp_path / "run", train={"samples": 320}, **skip)
    assert run_on_ranks(1, _train, config) == [None]
    part.write_bytes(whole[:-100])
    longer = _config(tmp_path / "data", tmp_path / "run", train={"samples": 640}, **skip)
    assert run_on_ranks(1, _train, longer) == [None]
    events = [event["event"] for event in read_records(tmp_path / "run" / "events.jsonl")]
    assert "skipped_rows" in events
    part.write_bytes(whole)
    longest = _config(tmp_path / "data", tmp_path / "run", train={"samples": 960}, **skip)
    assert run_on_ranks(1, _train, longest) == [None]


def test_a_run_without_the_record_of_its_data_does_not_go_on(dataset: Path, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "manifests" / "train.parquet").unlink()
    message = str(run_on_ranks(1, _train, _config(dataset, folder, train={"samples": 1280}))[0])
    assert "manifests/train.parquet: is missing" in message
    assert not (folder / "manifests" / "train.parquet").exists()


@pytest.mark.parametrize("line", ["{}", "5", "[]"])
def test_a_line_that_is_no_record_is_named(dataset: Path, trained: Path, tmp_path: Path, line: str) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(f"{line}\n")
    message = str(run_on_ranks(1, _train, _config(dataset, folder, train={"samples": 1280}))[0])
    assert "evaluations.jsonl: line" in message
    assert "is not a record (it has no samples)" in message
