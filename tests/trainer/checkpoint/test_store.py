"""Checkpoints in a store that answers badly now and then, without a folder that the ranks share.

The store speaks the protocol of S3 over HTTP (`tests.store`).
"""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import data.storage.retries
from tests.commands import started_command
from tests.jobs import Ended, announced, free_port, run_job
from tests.store import BUCKET, READER, STRANGER, Store, running_store
from tests.trainer.datasets import config_values, write_dataset

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
    """Killed, resumed on nodes that have seen nothing, audited, evaluated, begun with: as if on one disk."""
    place = f"s3://{BUCKET}/life"
    on_disk = _config(dataset, tmp_path, None)
    disk = tmp_path / "disk"
    port = free_port()
    reference = run_job([["train", on_disk, "--set", f"run.dir={disk}"]] * 2, [announced(r, 2, port) for r in range(2)])
    assert _codes(reference) == [0, 0], reference[0].err

    config = _config(dataset, tmp_path, place)
    port = free_port()
    with ExitStack() as stack:
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
        ranks[0].wait_until(lambda: "life/512/state.json" in store.names("life/512/"))
        for rank in ranks:
            rank.signal(signal.SIGKILL)
            rank.end()
    assert not (tmp_path / "node-1").exists()

    resumed = _train(config, store, tmp_path / "node-2", tmp_path / "node-3")
    assert _codes(resumed) == [0, 0], resumed[0].err
    run = tmp_path / "node-2"
    assert "has the records of this run from checkpoint.dir" in resumed[0].err
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


def _copied(store: Store, trained: Path, tmp_path: Path) -> tuple[Path, str]:
    """The run, and its checkpoints in another place of the store, whose prefix it is."""
    prefix = tmp_path.name
    for name in store.names("trained/"):
        store.client.copy_object(
            Bucket=BUCKET, Key=name.replace("trained", prefix, 1), CopySource={"Bucket": BUCKET, "Key": name}
        )
    return shutil.copytree(trained, tmp_path / "run"), prefix


def _edit(store: Store, key: str, change: Callable[[bytes], bytes]) -> None:
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
    "empty state": ("state.json", lambda data: b"", "damaged"),
    "missing state": ("state.json", None, "was saved, and is gone"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damage_is_named_and_the_older_checkpoint_taken(
    dataset: Path, store: Store, trained: Path, tmp_path: Path, damage: str
) -> None:
    run, prefix = _copied(store, trained, tmp_path)
    suffix, change, message = DAMAGES[damage]
    (key,) = [name for name in store.names(f"{prefix}/{NEWER}/") if name.endswith(suffix)]
    if change is None:
        store.client.delete_object(Bucket=BUCKET, Key=key)
    else:
        _edit(store, key, change)
    config = _config(dataset, tmp_path, f"s3://{BUCKET}/{prefix}")
    (ended,) = _train(config, store, run)
    assert ended.code == 0, ended.err
    output = " ".join((ended.out + ended.err).split())
    assert message in output
    assert f"resumed at {int(OLDER):,} of" in output
    assert f"{prefix}/{NEWER}/state.json" in store.names(prefix)  # saved again
    assert (f"{prefix}/{NEWER}/broken.json" in store.names(prefix)) == (damage != "missing state")
