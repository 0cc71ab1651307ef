"""A checkpoint's folder: what it says of itself, whether it is whole, and how it is read without running its code.

    RUN/checkpoints/2101248/            __<rank>_<n>.distcp, .metadata, state.json
    RUN/checkpoints/2101248.partial/    being written or deleted; never read
    RUN/checkpoints/2101248.broken/     found damaged when a run was resumed

A folder gets its final name in one rename, after `state.json` with the length and digest of every other file has been
written and all of them have been flushed to disk. So a folder with a number for a name that does not verify was damaged
later. The digests find accidents; against a hostile writer nothing that is read can name code to run.
"""

import io
import json
import os
import pickle
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
import xxhash
from pydantic import TypeAdapter, ValidationError
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from data.storage.files import open_unlinked
from data.storage.parsing import parse_json
from trainer.errors import CheckpointError
from trainer.run.starts import explain

FORMATS = (1, 2)
"""Formats of `state.json` that this program reads; it writes the last. The first has no id of the run."""
STATE_FILE = "state.json"
METADATA_FILE = ".metadata"
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class FileRecord:
    """A file of a checkpoint."""

    bytes: int
    digest: str
    """xxh3-128 of the content."""


@dataclass(frozen=True)
class State:
    """What a checkpoint says of itself, apart from the tensors."""

    samples: int
    pinned: bool
    """Kept for good: a milestone, or the end of a run."""
    segment: int
    """The start of the run that wrote it."""
    world_size: int
    plan: dict[str, str]
    """Sharding type of each table."""
    fingerprints: dict[str, str]
    """Of the datasets, by use: train, test."""
    config: dict[str, Any]
    """The resolved config."""
    log: dict[str, Any]
    """Sums of the log since its last record."""
    versions: dict[str, str]
    files: dict[str, FileRecord]
    run: str | None = None
    """Id of the run."""
    format: int = FORMATS[-1]

    def to_json(self) -> str:
        """One JSON object with a digest of itself."""
        values = asdict(self)
        return json.dumps(values | {"digest": _digest_of(values)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """ValueError where the text is not what `to_json` wrote."""
        values = parse_json(text)
        if not isinstance(values, dict) or "digest" not in values:
            raise ValueError("not the state of a checkpoint")
        if values.get("format") not in FORMATS:
            raise ValueError(f"has format {values.get('format')!r}, this program reads {FORMATS}")
        if values.pop("digest") != _digest_of(values):
            raise ValueError("does not match its own digest")

        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            raise ValueError(explain(error)) from error


def _digest_of(values: dict[str, Any]) -> str:
    try:
        text = json.dumps(values, sort_keys=True)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return xxhash.xxh3_128_hexdigest(text.encode())


def record_files(folder: Path, rank: int) -> dict[str, FileRecord]:
    """Length and digest of the files that a rank has written; rank 0 has written the index too."""
    try:
        own = sorted(folder.glob(f"__{rank}_*")) + ([folder / METADATA_FILE] if rank == 0 else [])
        return {path.name: record_file(path) for path in own}
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read back ({error.strerror})") from error


def record_file(path: Path) -> FileRecord:
    """Length and digest of a file."""
    digest, length = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            length += len(chunk)
    return FileRecord(length, digest.hexdigest())


def list_folders(folder: Path) -> list[str]:
    """Names of the finished checkpoints, oldest first, whole or damaged."""
    names = [entry.name for entry in folder.iterdir() if entry.name.isdecimal()] if folder.is_dir() else []
    return sorted(names, key=int)


def partial_of(path: Path) -> Path:
    """Where a checkpoint is written, and deleted."""
    return path.with_suffix(".partial")


def publish(final: Path, state: State) -> None:
    """Makes a complete folder visible under its final name, in one step that survives a power cut."""
    partial = partial_of(final)
    try:
        _write_flushed(partial / STATE_FILE, state.to_json())
        _flush_folder(partial)
        partial.rename(final)
        _flush_folder(final.parent)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from error


def thin_out(folder: Path, keep: int) -> None:
    """Deletes the oldest checkpoints beyond the `keep` newest; pinned ones stay, and do not count."""
    try:
        for name in _loose(folder)[:-keep]:
            _delete(folder / name)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: an old checkpoint that cannot be deleted ({error.strerror})"
        ) from error


def _loose(folder: Path) -> list[str]:
    """Checkpoints that may be deleted, oldest first; a damaged one is left for people to see."""

    def loose(name: str) -> bool:
        try:
            return not read_state(folder / name).pinned
        except CheckpointError:
            return False

    return [name for name in list_folders(folder) if loose(name)]


def _delete(path: Path) -> None:
    """Removes a checkpoint; cut short, it leaves a `.partial` folder, never half a checkpoint under a good name."""
    discard(partial_of(path))
    path.rename(partial_of(path))
    discard(partial_of(path))


def pin(path: Path) -> None:
    """Keeps an existing checkpoint for good."""
    state = read_state(path)
    if not state.pinned:
        partial = path / f"{STATE_FILE}.partial"
        _write_flushed(partial, replace(state, pinned=True).to_json())
        partial.replace(path / STATE_FILE)
        _flush_folder(path)


def discard(path: Path) -> None:
    """Removes a half-written folder, as far as the system lets us: what stays is never read. Of a link, only itself."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def clear_after(folder: Path, samples: int) -> None:
    """Renames the checkpoints after `samples`, all damaged, so that theirs can be saved again; removes half ones."""
    try:
        for name in list_folders(folder):
            if int(name) > samples:
                broken = (folder / name).with_suffix(".broken")
                discard(broken)
                (folder / name).rename(broken)

        for partial in folder.glob("*.partial"):
            discard(partial)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: damaged, and cannot be renamed ({error.strerror})") from error


def read_state(path: Path) -> State:
    """What the checkpoint at `path` says of itself; CheckpointError where that is damaged."""
    file = path / STATE_FILE
    try:
        state = State.from_json(file.read_text(encoding="utf-8"))
        if str(state.samples) != path.name:
            raise ValueError(f"is of {state.samples} samples, not of {path.name}")
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file}: damaged ({error})") from error

    return state


def check_files(path: Path, state: State, names: list[str]) -> None:
    """CheckpointError where one of these files of the checkpoint at `path` is not as it was written."""
    for name in names:
        check_file(path / name, state.files[name])


def check_file(path: Path, expected: FileRecord) -> None:
    """CheckpointError where a file is not as it was written."""
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise CheckpointError(f"{path}: has {size:,} bytes, was written with {expected.bytes:,}")
        if record_file(path) != expected:
            raise CheckpointError(f"{path}: its content has changed since it was written (another digest)")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def check_index(path: Path) -> State:
    """What the checkpoint at `path` says of itself; CheckpointError where its index is none, or points outside it."""
    state, file = read_state(path), path / METADATA_FILE
    if METADATA_FILE not in state.files:
        raise CheckpointError(f"{path / STATE_FILE}: does not list {METADATA_FILE}")

    check_file(file, state.files[METADATA_FILE])
    try:
        targets = {entry.relative_path for entry in SafeReader(path).read_metadata().storage_data.values()}
    except Exception as error:  # whatever unpickling foreign bytes may raise
        raise CheckpointError(f"{file}: not the index of a checkpoint ({error})") from error

    for target in sorted(targets - set(state.files)):
        raise CheckpointError(f"{file}: points to {target!r}, which is no file of this checkpoint")

    return state


class SafeReader(FileSystemReader):
    """Reads the pickled index through an allow-list; the tensors themselves are read with `weights_only`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002
        """The index; pickle.UnpicklingError where it names anything but its own parts."""
        with (Path(self.path) / METADATA_FILE).open("rb") as file:
            metadata = _IndexUnpickler(file).load()

        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"holds a {type(metadata).__name__}")

        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class SafePlanner(DefaultLoadPlanner):
    """Reads what is not a tensor with `weights_only` too."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Puts a value into its place in the state."""
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)  # the default planner unpickles whatever it is given
        plain.seek(0)
        super().load_bytes(read_item, plain)


_INDEX_PARTS = {
    "torch": ("Size", "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "BytesStorageMetadata",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "pathlib": ("PosixPath",),
}
"""All that an index is made of. None of these does anything but hold values."""


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _INDEX_PARTS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"names {module}.{name}, which is no part of an index")


def _write_flushed(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", opener=open_unlinked) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
