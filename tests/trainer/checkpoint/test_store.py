"""Checkpoints in a store that answers badly now and then, without a folder that the ranks share.

The store speaks the protocol of S3 over HTTP (`tests.store`).
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import data.storage.retries
from data.storage.stored_files import StoredFiles
from tests.commands import started_command
from tests.jobs import Ended, announced, free_port, run_job
from tests.ranks import run_on_ranks
from tests.store import BUCKET, READER, STRANGER, Store, running_store
from tests.trainer.datasets import config_values, write_dataset
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.run_copy import RunCopy, TakenOverError
from trainer.checkpoint.store import StoreFolder
from trainer.distributed.world import World
from trainer.errors import CheckpointError
from trainer.run.directory import RunDirectory

FAIL_EVERY = 41
SAMPLES = 1_536
OLDER, NEWER = "1024", "1536"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    write_dataset(folder / "train", 2_500, seed=1)
    write_dataset(folder / "test", 500, seed=2)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running_store(tmp_path_factory.mktemp("store"), FAIL_EVERY) as running:
        yield running


def _hurry() -> None:
    data.storage.retries.WAITS_SECONDS = (0.05, 0.1)


def _config(dataset: Path, folder: Path, place: str | None, **sections: Any) -> str:
    checkpoint = {"every_samples": 512, **({} if place is None else {"dir": place})}
    sections = {"train": {"samples": SAMPLES}, "evaluate": {"at_samples": [OLDER]}, **sections}
    sections["checkpoint"] = checkpoint | sections.get("checkpoint", {})
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(config_values(dataset, **sections)))
    return str(path)


def _train(config: str, store: Store, *folders: Path, environment: dict[str, str] | None = None) -> list[Ended]:
    """How ranks ended that have each a folder of its own, as on nodes that share none."""
    port = free_port()
    size = len(folders)
    variables = [announced(rank, size, port) | store.environment | (environment or {}) for rank in range(size)]
    commands = [["train", config, "--set", f"run.dir={folder}"] for folder in folders]
    return run_job(commands, variables, prepare=_hurry)


def _losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "train.jsonl").read_text().splitlines()
    return [(record["samples"], record["loss"]) for record in map(json.loads, lines)]


def _evaluations(run: Path) -> list[tuple[int, str, float | None]]:
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    return [(record["samples"], record["task"], record["ne"]) for record in map(json.loads, lines)]


def _codes(ended: list[Ended]) -> list[int]:
    return [entry.code for entry in ended]


def test_a_life_without_a_shared_folder(dataset: Path, store: Store, tmp_path: Path) -> None:
    """Killed inside a save, resumed on nodes that have seen nothing, audited, evaluated, begun with: as on one disk."""
    place = f"s3://{BUCKET}/life"
    on_disk = _config(dataset, tmp_path, None)
    disk = tmp_path / "disk"
    port = free_port()
    reference = run_job([["train", on_disk, "--set", f"run.dir={disk}"]] * 2, [announced(r, 2, port) for r in range(2)])
    assert _codes(reference) == [0, 0], reference[0].err

    config = _config(dataset, tmp_path, place)
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(store.away(f"life/{OLDER}/state.json"))
        ranks = [
            stack.enter_context(
                started_command(
                    tmp_path,
                    *("train", config, "--set", f"run.dir={tmp_path / f'node-{rank}'}"),
                    environment=announced(rank, 2, port) | store.environment,
                )
            )
            for rank in range(2)
        ]
        ranks[0].wait_until(lambda: len([name for name in store.names(f"life/{OLDER}/") if "distcp" in name]) == 2)
        for rank in ranks:
            rank.signal(signal.SIGKILL)
            rank.end()
    half = store.names(f"life/{OLDER}/")
    assert f"life/{OLDER}/state.json" not in half
    assert not (tmp_path / "node-1").exists()

    resumed = _train(config, store, tmp_path / "node-2", tmp_path / "node-3")
    assert _codes(resumed) == [0, 0], resumed[0].err
    run = tmp_path / "node-2"
    assert "has the records of this run from checkpoint.dir" in resumed[0].err
    assert "resumed at 512 of" in resumed[0].out
    assert not {*half} & {*store.names(f"life/{OLDER}/")}
    assert not (tmp_path / "node-3").exists()
    assert not (run / "checkpoints").exists()
    assert _losses(run) == _losses(disk)
    assert _evaluations(run) == _evaluations(disk)

    (audited,) = run_job([["audit", str(run), "--json"]], [store.environment])
    assert audited.code == 0, audited.out
    commands = [
        ["evaluate", str(run), "--checkpoint", OLDER, "--json"],
        ["predict", str(run), "--data", str(dataset / "test"), "--out", str(tmp_path / "scored")],
        ["train", _config(dataset, tmp_path, None, init={"from": str(run)}), "--set", f"run.dir={tmp_path / 'begun'}"],
    ]
    for command in commands:
        (ended,) = run_job([command], [store.environment])
        assert ended.code == 0, ended.err
    assert store.failures > 3


@pytest.fixture(scope="module")
def trained(dataset: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at 512, 1024 and 1536 samples, in the store below `trained`."""
    folder = tmp_path_factory.mktemp("trained")
    config = _config(dataset, folder, f"s3://{BUCKET}/trained")
    (ended,) = _train(config, store, folder / "run")
    assert ended.code == 0, ended.err
    return folder / "run"


def _copy(store: Store, prefix: str, to: str) -> None:
    for name in store.names(f"{prefix}/"):
        source = {"Bucket": BUCKET, "Key": name}
        store.client.copy_object(Bucket=BUCKET, Key=name.replace(prefix, to, 1), CopySource=source)


def _edit(store: Store, key: str, change: Callable[[bytes], bytes] | None) -> None:
    """Changes an object; None: removes it."""
    if change is None:
        store.client.delete_object(Bucket=BUCKET, Key=key)
        return
    body = store.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    store.client.put_object(Bucket=BUCKET, Key=key, Body=change(body))


def _altered(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes] | None, str]] = {
    "missing object": (".distcp", None, "cannot be read (No such file or directory)"),
    "truncated object": (".distcp", lambda data: data[:-1], "bytes, was written with"),
    "altered object": (".distcp", _altered, "its content has changed"),
    "missing index": (".metadata", None, "cannot be read (No such file or directory)"),
    "altered index": (".metadata", _altered, "its content has changed"),
    "altered state": ("state.json", _altered, "damaged"),
    "empty state": ("state.json", lambda _: b"", "damaged"),
}


def _newest(world: World, environment: dict[str, str], prefixes: list[str]) -> list[tuple[int | None, list[str]]]:
    os.environ.update(environment)
    _hurry()
    results = []
    for prefix in prefixes:
        folder = StoreFolder(StoredFiles(f"s3://{BUCKET}/{prefix}"))
        state, problems = Checkpoints(folder, world).newest()
        results.append((state.samples if state is not None else None, problems))
    return results


@pytest.mark.usefixtures("trained")
def test_damage_is_named_and_the_older_checkpoint_taken(store: Store) -> None:
    prefixes = [f"damaged/{number}" for number in range(len(DAMAGES))]
    for prefix, (suffix, change, _) in zip(prefixes, DAMAGES.values(), strict=True):
        _copy(store, "trained", prefix)
        (key,) = [name for name in store.names(f"{prefix}/{NEWER}/") if name.endswith(suffix)]
        _edit(store, key, change)

    for found in run_on_ranks(2, _newest, store.environment, prefixes):
        for (name, (suffix, _, message)), (samples, problems) in zip(DAMAGES.items(), found, strict=True):
            assert samples == int(OLDER), name
            (problem,) = problems
            assert message in problem, name
            assert f"/{NEWER}/" in problem, name
            assert f"{suffix}: " in problem, name


@pytest.mark.parametrize(
    ("suffix", "message"),
    [(".distcp", "cannot be read (No such file or directory)"), ("state.json", "was saved, and is gone")],
)
def test_a_resume_takes_the_older_and_saves_the_newer_again(
    dataset: Path, store: Store, trained: Path, tmp_path: Path, suffix: str, message: str
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    prefix = f"resumed/{suffix}"
    _copy(store, "trained", prefix)
    (key,) = [name for name in store.names(f"{prefix}/{NEWER}/") if name.endswith(suffix)]
    _edit(store, key, None)

    (ended,) = _train(_config(dataset, tmp_path, f"s3://{BUCKET}/{prefix}"), store, run)
    assert ended.code == 0, ended.err
    output = " ".join((ended.out + ended.err).split())
    assert message in output
    assert f"resumed at {int(OLDER):,} of" in output
    saved = [name.removeprefix(f"{prefix}/{NEWER}/") for name in store.names(f"{prefix}/{NEWER}/")]
    assert "state.json" in saved
    assert ("broken.json" in saved) == (suffix == ".distcp")


@pytest.mark.usefixtures("trained")
def test_what_is_not_complete_is_never_taken_and_goes(store: Store) -> None:
    """A save that was killed, and a deletion that was cut short."""
    _copy(store, "trained", "thinned")
    for name in (f"thinned/{NEWER}/state.json", "thinned/512/state.json"):
        store.client.delete_object(Bucket=BUCKET, Key=name)
    store.client.put_object(Bucket=BUCKET, Key="thinned/2048/aaaa__0_0.distcp", Body=b"half")
    assert run_on_ranks(1, _thin_out, store.environment, "thinned") == [[OLDER]]
    folders = {name.split("/")[1] for name in store.names("thinned/") if not name.endswith("/")}
    assert folders == {OLDER, "run", "owner.json"}


def _thin_out(world: World, environment: dict[str, str], prefix: str) -> list[str]:  # noqa: ARG001
    os.environ.update(environment)
    _hurry()
    folder = StoreFolder(StoredFiles(f"s3://{BUCKET}/{prefix}"))
    names = folder.names()
    folder.thin_out(3)
    return names


@pytest.mark.usefixtures("trained")
def test_a_deletion_begins_with_the_state(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short at any request, it leaves nothing that is taken for a checkpoint."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    _copy(store, "trained", "deleted")
    folder = StoreFolder(StoredFiles(f"s3://{BUCKET}/deleted"))

    def fail(_: str) -> None:
        raise OSError("cut off")

    monkeypatch.setattr(folder.files, "delete_folder", fail)
    with pytest.raises(CheckpointError, match="cut off"):
        folder.delete("512")
    assert folder.names() == [OLDER, NEWER]


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"levels": [[8], [8]]}}, "holds the checkpoints of a run of another config: model.levels"),
        ({"data": {"train": "train-2"}}, "data.train = "),
        ({"run": {"seed": 18}}, "holds the checkpoints of a run of another config: run.seed was 17, now 18"),
    ],
)
def test_another_run_is_refused(
    dataset: Path, store: Store, tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    if "train-2" in str(sections):
        write_dataset(tmp_path / "train-2", 2_500, seed=3)
        sections = {"data": {"train": str(tmp_path / "train-2")}}
    before = store.names("trained/")
    ended = _train(
        _config(dataset, tmp_path, f"s3://{BUCKET}/trained", **sections), store, tmp_path / "a", tmp_path / "b"
    )
    assert _codes(ended) == [2, 2]
    (line,) = [line for line in ended[0].err.splitlines() if line.startswith("error:")]
    assert message in line
    assert store.names("trained/") == before
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("place", "environment", "message"),
    [
        ("s3://no-such-bucket/run", {}, "bucket"),
        (f"s3://{BUCKET}/run", {"AWS_ACCESS_KEY_ID": STRANGER}, "ACCESS_DENIED"),
        (f"s3://{BUCKET}/run", {"AWS_ACCESS_KEY_ID": READER}, "ACCESS_DENIED"),
        (f"s3://{BUCKET}/run", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "ACCESS_DENIED"),
        ("nowhere://run", {}, "give a local path or a URI that pyarrow.fs opens"),
    ],
)
def test_a_place_that_cannot_be_used_is_an_error_of_all_ranks(
    dataset: Path, store: Store, tmp_path: Path, place: str, environment: dict[str, str], message: str
) -> None:
    config = _config(dataset, tmp_path, place)
    ended = _train(config, store, tmp_path / "a", tmp_path / "b", environment=environment)
    assert _codes(ended) == [2, 2]
    (line,) = [line for line in ended[0].err.splitlines() if line.startswith("error:")]
    assert line.startswith("error: checkpoint.dir")
    assert message in line
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("place", ["own", "other", "copy"])
def test_a_place_that_is_a_folder_of_a_run_is_refused(
    dataset: Path, store: Store, trained: Path, tmp_path: Path, place: str
) -> None:
    run = tmp_path / "run"
    places = {"own": str(run), "other": str(trained), "copy": f"s3://{BUCKET}/trained/run"}
    before = [sorted(trained.rglob("*")), _objects(store)]
    (ended,) = _train(_config(dataset, tmp_path, places[place]), store, run)
    assert ended.code == 2
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert "is the folder of a run, or the copy of one" in line
    assert [sorted(trained.rglob("*")), _objects(store)] == before
    assert not (run / "config.toml").exists()


def _objects(store: Store) -> list[str]:
    """Of the trained run, without the names of folders."""
    return [name for name in store.names("trained/") if not name.endswith("/")]


def test_a_store_that_is_away_costs_a_save_and_the_end_is_told(dataset: Path, store: Store, tmp_path: Path) -> None:
    """Each request for the second checkpoint fails, then those for the last: training goes on, and is resumed."""
    prefix = "away"
    config = _config(dataset, tmp_path, f"s3://{BUCKET}/{prefix}")
    with store.away(f"{prefix}/{OLDER}"):
        first = _train(config, store, tmp_path / "a", tmp_path / "b")
    assert _codes(first) == [0, 0], first[0].err
    assert f"{prefix}/{OLDER}: not saved" in " ".join(first[0].out.split())

    config = _config(dataset, tmp_path, f"s3://{BUCKET}/{prefix}", train={"samples": 2_048})
    with store.away(f"{prefix}/2048"):
        second = _train(config, store, tmp_path / "a", tmp_path / "b")
    assert _codes(second) == [1, 1]
    assert f"{prefix}/2048: not saved" in second[0].err

    third = _train(config, store, tmp_path / "c")
    assert _codes(third) == [0], third[0].err
    assert "resumed at 1,536" in third[0].out
    (audited,) = run_job([["audit", str(tmp_path / "c"), "--json"]], [store.environment])
    assert audited.code == 0, audited.out

    for folder, samples in (("c", 2_304), ("a", 2_432)):  # back on the node that has missed what the third did
        config = _config(dataset, tmp_path, f"s3://{BUCKET}/{prefix}", train={"samples": samples})
        (ended,) = _train(config, store, tmp_path / folder)
        assert ended.code == 0, ended.err
    assert "resumed at 2,304" in ended.out
    (audited,) = run_job([["audit", str(tmp_path / "a"), "--json"]], [store.environment])
    assert audited.code == 0, audited.out


def test_a_start_that_another_has_overtaken_ends(store: Store, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was cut off may write no checkpoint, nor records, once the others have gone on without it."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    files = StoredFiles(f"s3://{BUCKET}/overtaken")
    older, newer = (RunCopy(files, RunDirectory(trained)) for _ in range(2))
    older.claim("id")
    older.keep()
    newer.claim("id")
    newer.keep()
    with pytest.raises(TakenOverError, match="has been taken over by a start on host"):
        older.keep()


def test_a_folder_on_a_disk(dataset: Path, store: Store, tmp_path: Path) -> None:
    """Another path works as a store does, with the layout of a disk."""
    place = tmp_path / "place"
    for samples, folders in ((1_024, "ab"), (SAMPLES, "c")):
        config = _config(dataset, tmp_path, str(place), train={"samples": samples})
        ended = _train(config, store, *(tmp_path / folder for folder in folders))
        assert ended[0].code == 0, ended[0].err
    assert "resumed at 1,024" in ended[0].out
    assert sorted(path.name for path in (place / NEWER).iterdir()) == [".metadata", "__0_0.distcp", "state.json"]
    (evaluated,) = run_job([["evaluate", str(tmp_path / "c"), "--json"]], [{}])
    assert evaluated.code == 0, evaluated.err

    config = _config(dataset, tmp_path, str(place), run={"seed": 18})
    (refused,) = _train(config, store, tmp_path / "d")
    assert refused.code == 2
    assert "of a run of another config: run.seed was 17, now 18" in refused.err


def test_a_place_without_the_checkpoints_does_not_begin_anew(
    dataset: Path, store: Store, trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (ended,) = _train(_config(dataset, tmp_path, f"s3://{BUCKET}/elsewhere"), store, run)
    assert ended.code == 2
    assert "no checkpoint is here, but the run has saved one at 1,536 samples; set checkpoint.dir" in ended.err
