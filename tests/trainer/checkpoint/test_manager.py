"""A damaged checkpoint is found, named and passed over; a hostile one runs nothing; a full disk loses nothing."""

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.state import State
from trainer.checkpoint.storage import STATE_FILE, LocalFolder, read_state, record_file
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import CheckpointError
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

OLDER, NEWER = "1024", "1536"


def _train(world: World, config: Config) -> list[dict[str, Any]]:
    train(config, world)
    return read_records(RunDirectory(config.run.dir).train_log)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run on two ranks with checkpoints at 512, 1024 and 1536 samples."""
    config = make_config(
        dataset,
        run={"dir": str(tmp_path_factory.mktemp("trained") / "run")},
        train={"samples": 1536},
        checkpoint={"every_samples": 512},
    )
    run_on_ranks(2, _train, config)
    return config


def _seal(path: Path) -> None:
    """Digests as a writer of whatever the folder holds now would have recorded them."""
    state = read_state(path)
    files = {name: record_file(path / name) for name in state.files if (path / name).is_file()}
    (path / STATE_FILE).write_text(replace(state, files=files).to_json())


def _edit_state(change: Callable[[dict[str, Any]], Any], *, sealed: bool) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / STATE_FILE
        values = json.loads(file.read_text())
        change(values)
        if sealed:
            values.pop("digest")
            values["files"] = {name: record_file(path / name) for name in values["files"]}
            file.write_text(State(**values).to_json())
        else:
            file.write_text(json.dumps(values))

    return damage


def _flip(name: str, at: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[min(int(at * len(data)), len(data) - 1)] ^= 1
        (path / name).write_bytes(data)

    return damage


def _truncate(name: str, keep: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        size = (path / name).stat().st_size
        os.truncate(path / name, int(keep * size))

    return damage


def _both(one: Callable[[Path], Any], other: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        one(path)
        other(path)

    return damage


def _replace_by_folder(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / name).unlink()
        (path / name).mkdir()

    return damage


def _dangling_link(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / name).unlink()
        (path / name).symlink_to("nowhere")

    return damage


def _pickled(value: Any, *, sealed: bool) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / ".metadata").write_bytes(pickle.dumps(value))
        if sealed:
            _seal(path)

    return damage


def _metadata_pointing_outside(path: Path) -> None:
    metadata = pickle.loads((path / ".metadata").read_bytes())
    for entry in metadata.storage_data.values():
        entry.relative_path = "../" + OLDER + "/" + entry.relative_path
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    _seal(path)


def _swap_shards(path: Path) -> None:
    one, other = path / "__0_0.distcp", path / "__1_0.distcp"
    one.rename(path / "aside")
    other.rename(one)
    (path / "aside").rename(other)


def _shard_of_the_older(path: Path) -> None:
    shutil.copy(path.parent / OLDER / "__0_0.distcp", path / "__0_0.distcp")


def _renamed_older(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(path.parent / OLDER, path)


class _OldPickler(pickle.Pickler):
    """Pickles members of enumerations as Python did until 3.11.3."""

    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


def _metadata_by_an_older_python(path: Path) -> None:
    metadata = pickle.loads((path / ".metadata").read_bytes())
    with (path / ".metadata").open("wb") as file:
        _OldPickler(file).dump(metadata)
    _seal(path)


class _Reaching:
    """Unpickled without care, it is an attribute of something that an index may name."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (Metadata, "__init__")


class _Hostile:
    """Unpickled without care, it makes a file."""

    def __init__(self, proof: str) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.proof,)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing shard": (lambda path: (path / "__1_0.distcp").unlink(), "__1_0.distcp"),
    "truncated shard": (_truncate("__0_0.distcp", 0.5), "__0_0.distcp"),
    "empty shard": (_truncate("__0_0.distcp", 0), "__0_0.distcp"),
    "longer shard": (_truncate("__0_0.distcp", 1.01), "__0_0.distcp"),
    "flipped bit at the start of a shard": (_flip("__0_0.distcp", 0), "__0_0.distcp"),
    "flipped bit inside a shard": (_flip("__1_0.distcp", 0.5), "__1_0.distcp"),
    "flipped bit at the end of a shard": (_flip("__1_0.distcp", 1), "__1_0.distcp"),
    "shards swapped": (_swap_shards, "__"),
    "shard of an older checkpoint": (_shard_of_the_older, "__0_0.distcp"),
    "folder instead of a shard": (_replace_by_folder("__0_0.distcp"), "__0_0.distcp"),
    "dangling link instead of a shard": (_dangling_link("__0_0.distcp"), "__0_0.distcp"),
    "missing metadata": (lambda path: (path / ".metadata").unlink(), ".metadata"),
    "empty metadata": (_truncate(".metadata", 0), ".metadata"),
    "truncated metadata": (_truncate(".metadata", 0.9), ".metadata"),
    "flipped bit in metadata": (_flip(".metadata", 0.5), ".metadata"),
    "foreign pickle": (_pickled({"a": 1}, sealed=False), ".metadata"),
    "foreign pickle, sealed": (_pickled({"a": 1}, sealed=True), ".metadata"),
    "truncated metadata, sealed": (_both(_truncate(".metadata", 0.9), _seal), ".metadata"),
    "metadata that asks for an attribute": (_pickled(_Reaching(), sealed=True), ".metadata"),
    "metadata that points outside": (_metadata_pointing_outside, ".metadata"),
    "missing state": (lambda path: (path / STATE_FILE).unlink(), STATE_FILE),
    "empty state": (_truncate(STATE_FILE, 0), STATE_FILE),
    "truncated state": (_truncate(STATE_FILE, 0.7), STATE_FILE),
    "flipped bit in the state": (_flip(STATE_FILE, 0.4), STATE_FILE),
    "state that is no object": (lambda path: (path / STATE_FILE).write_text("[1]"), STATE_FILE),
    "state that is not text": (lambda path: (path / STATE_FILE).write_bytes(b"\xff\xfe"), STATE_FILE),
    "wrong version": (_edit_state(lambda values: values.update(format=99), sealed=False), STATE_FILE),
    "edited samples": (_edit_state(lambda values: values.update(samples=1024), sealed=False), STATE_FILE),
    "state without metadata, sealed": (
        _edit_state(lambda values: values["files"].pop(".metadata"), sealed=True),
        STATE_FILE,
    ),
    "older checkpoint under another name": (_renamed_older, STATE_FILE),
    "empty folder": (lambda path: [entry.unlink() for entry in path.iterdir()], STATE_FILE),
}


def _newest(world: World, folders: list[str]) -> list[tuple[int | None, list[str]]]:
    results = []
    for folder in folders:
        state, problems = Checkpoints(LocalFolder(Path(folder)), world).newest()
        results.append((state.samples if state is not None else None, problems))
    return results


@pytest.mark.parametrize("size", [1, 2])
def test_damage_is_named_and_the_older_checkpoint_taken(trained: Config, tmp_path: Path, size: int) -> None:
    folders = []
    for number, (damage, _) in enumerate(DAMAGES.values()):
        folders.append(shutil.copytree(Path(trained.run.dir) / "checkpoints", tmp_path / str(number)))
        damage(folders[-1] / NEWER)
    for found in run_on_ranks(size, _newest, [str(folder) for folder in folders]):
        for (name, (_, file)), (samples, problems) in zip(DAMAGES.items(), found, strict=True):
            assert samples == int(OLDER), name
            assert len(problems) == 1, name
            assert f"{NEWER}/{file}" in problems[0], name
            assert "\n" not in problems[0], name


def test_an_index_that_an_older_python_wrote_is_read(trained: Config, tmp_path: Path) -> None:
    folder = shutil.copytree(Path(trained.run.dir) / "checkpoints", tmp_path / "checkpoints")
    _metadata_by_an_older_python(folder / NEWER)
    assert b"getattr" in (folder / NEWER / ".metadata").read_bytes()
    assert run_on_ranks(1, _newest, [str(folder)]) == [[(int(NEWER), [])]]


def test_unreadable_files_are_damage(trained: Config) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become a user who may not read")
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = shutil.copytree(Path(trained.run.dir) / "checkpoints", Path(parent) / "checkpoints")
        (folder / NEWER / "__1_0.distcp").chmod(0)
        ((samples, problems),) = run_on_ranks(1, _newest_as_nobody, str(folder))
    assert samples == int(OLDER)
    assert "__1_0.distcp: cannot be read (Permission denied)" in problems[0]


def _newest_as_nobody(world: World, folder: str) -> tuple[int | None, list[str]]:
    checkpoints = Checkpoints(LocalFolder(Path(folder)), world)
    os.seteuid(65534)
    try:
        state, problems = checkpoints.newest()
    finally:
        os.seteuid(0)
    return (state.samples if state is not None else None), problems


@pytest.mark.parametrize("place", ["metadata", "tensor", "value"])
def test_a_hostile_checkpoint_runs_nothing(trained: Config, tmp_path: Path, place: str) -> None:
    run = shutil.copytree(trained.run.dir, tmp_path / "run")
    newer, proof = run / "checkpoints" / NEWER, tmp_path / "proof"
    if place == "metadata":
        _pickled(_Hostile(str(proof)), sealed=True)(newer)
    else:
        _plant(_Hostile(str(proof)), newer, as_tensor=place == "tensor")
    config = trained.model_copy(update={"run": trained.run.model_copy(update={"dir": str(run)})})
    message = run_on_ranks(1, _load, config, NEWER)[0]
    assert not proof.exists()
    assert ("names posix.mkdir" if place == "metadata" else "not plain data") in message


def _plant(value: _Hostile, path: Path, *, as_tensor: bool) -> None:
    """Puts a hostile pickle in the place of a tensor of the head, with lengths and digests in order."""
    metadata = pickle.loads((path / ".metadata").read_bytes())
    index, entry = next((index, entry) for index, entry in metadata.storage_data.items() if "head" in index.fqn)
    file = path / "hostile.distcp"
    torch.save(value, file)
    entry.relative_path, entry.offset, entry.length = file.name, 0, file.stat().st_size
    if not as_tensor:
        metadata.state_dict_metadata[index.fqn] = BytesStorageMetadata()
        metadata.storage_data[MetadataIndex(index.fqn)] = entry
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    state = read_state(path)
    files = {name: record_file(path / name) for name in [*state.files, file.name]}
    (path / STATE_FILE).write_text(replace(state, files=files).to_json())


def _load(world: World, config: Config, name: str) -> str:
    from trainer.build_model import build_sharded_model

    sharded = build_sharded_model(config, world, config.train.samples)
    checkpoints = Checkpoints(LocalFolder(RunDirectory(config.run.dir).checkpoints), world)
    try:
        checkpoints.load(checkpoints.find(name), sharded.model, sharded.optimizer)
    except CheckpointError as error:
        return str(error)
    return "loaded"


def test_a_resume_takes_the_older_and_saves_the_newer_again(trained: Config, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run.dir, tmp_path / "run")
    expected = read_state(run / "checkpoints" / NEWER).files
    _flip("__0_0.distcp", 0.5)(run / "checkpoints" / NEWER)
    config = trained.model_copy(update={"run": trained.run.model_copy(update={"dir": str(run)})})
    run_on_ranks(2, _train, config)
    assert (run / "checkpoints" / f"{NEWER}.broken").is_dir()
    found = read_state(run / "checkpoints" / NEWER).files
    assert {name: record.bytes for name, record in found.items() if name != ".metadata"} == {
        name: record.bytes for name, record in expected.items() if name != ".metadata"
    }
    assert found["__0_0.distcp"] == expected["__0_0.distcp"]  # resumed weights are the same to the bit
    events = [record["event"] for record in read_records(run / "events.jsonl")]
    assert "damaged_checkpoint" in events


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(trained: Config, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run.dir, tmp_path / "run")
    for path in (run / "checkpoints").iterdir():
        (path / STATE_FILE).unlink()
    config = trained.model_copy(update={"run": trained.run.model_copy(update={"dir": str(run)})})
    message = run_on_ranks(1, _refusal, config)[0]
    assert "no checkpoint of this run is whole" in message
    assert STATE_FILE in message


def _refusal(world: World, config: Config) -> str:
    with pytest.raises(CheckpointError) as caught:
        train(config, world)
    return str(caught.value)
