"""Checkpoints on a disk.

    RUN/checkpoints/2101248/            __<rank>_<n>.distcp, .metadata, state.json
    RUN/checkpoints/2101248.start-3.partial/    being written, by start 3; `.partial` being deleted; never read
    RUN/checkpoints/2101248.broken/     found damaged when a run was resumed

A folder gets its final name in one rename, after `state.json` with the length and digest of every other file has been
written and all of them have been flushed to disk. So a folder with a number for a name that does not verify was damaged
later. The digests find accidents; against a hostile writer nothing that is read can name code to run.
"""

import os
import shutil
from pathlib import Path

import xxhash
from torch.distributed.checkpoint import FileSystemWriter
from typing_extensions import override

from data.storage.files import replace_text
from trainer.checkpoint.folder import STATE_FILE, CheckpointFolder
from trainer.checkpoint.safe_load import METADATA_FILE, SafeReader
from trainer.checkpoint.state import FileRecord, State
from trainer.errors import CheckpointError

FULL_BYTES = 1 << 20
"""A disk with less space is called full."""
_CHUNK_BYTES = 1 << 22


class LocalFolder(CheckpointFolder):
    """Checkpoints on a disk, which all ranks see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @override
    def where(self, name: str = "", file: str = "") -> str:
        return str(self.path / name / file)

    @override
    def names(self) -> list[str]:
        return list_folders(self.path)

    @override
    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    @override
    def begin(self, name: str, segment: int) -> str:
        """Each start has a folder of its own: a rank of an earlier one, thought lost, may still be writing."""
        prefix = f".start-{segment}"
        partial = partial_of(self.path / name, prefix)
        discard(partial)
        if partial.is_symlink() or partial.exists():  # torch's writer would fill it, wherever it leads
            raise CheckpointError(f"{partial}: is in the way of a checkpoint and cannot be removed; remove it")
        return prefix

    @override
    def writer(self, name: str, prefix: str) -> FileSystemWriter:
        return FileSystemWriter(partial_of(self.path / name, prefix))

    @override
    def written(self, writer: FileSystemWriter, name: str, rank: int) -> dict[str, FileRecord]:
        folder = Path(writer.path)
        try:
            written = sorted(folder.glob(f"__{rank}_*"))
            if rank == 0:
                written.append(folder / METADATA_FILE)
            return {path.name: record_file(path) for path in written}
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be read back ({error.strerror})") from error

    @override
    def publish(self, name: str, state: State) -> None:
        """In one step that survives a power cut."""
        final = self.path / name
        partial = partial_of(final, f".start-{state.segment}")
        try:
            replace_text(partial / STATE_FILE, state.to_json())
            _flush_folder(partial)
            partial.rename(final)
            _flush_folder(final.parent)
        except OSError as error:
            raise CheckpointError(f"{error.filename}: {error.strerror}") from error

    @override
    def abandon(self, name: str, prefix: str) -> None:
        discard(partial_of(self.path / name, prefix))

    @override
    def why_failed(self, name: str, cause: str) -> str:
        """Torch's writer tells of a full disk in words of its own."""
        is_full = shutil.disk_usage(self.path).free < FULL_BYTES
        return "no space left on device" if is_full else cause

    @override
    def read_text(self, name: str, file: str) -> str:
        return (self.path / name / file).read_text(encoding="utf-8")

    @override
    def replace_state(self, name: str, state: State) -> None:
        replace_text(self.path / name / STATE_FILE, state.to_json())
        _flush_folder(self.path / name)

    @override
    def check_file(self, name: str, file: str, expected: FileRecord) -> None:
        check_file(self.path / name / file, expected)

    @override
    def reader(self, name: str, index: str) -> SafeReader:
        return SafeReader(self.path / name, index=index)

    @override
    def thin_out(self, keep: int) -> None:
        try:
            super().thin_out(keep)
        except OSError as error:
            raise CheckpointError(
                f"{error.filename}: an old checkpoint that cannot be deleted ({error.strerror})"
            ) from error

    @override
    def delete(self, name: str) -> None:
        """Renamed first, so that half of one never looks whole."""
        path = self.path / name
        discard(partial_of(path))
        path.rename(partial_of(path))
        discard(partial_of(path))

    @override
    def clear_after(self, samples: int) -> None:
        try:
            super().clear_after(samples)
        except OSError as error:
            raise CheckpointError(f"{error.filename}: damaged, and cannot be renamed ({error.strerror})") from error

    @override
    def set_aside(self, name: str) -> None:
        broken = (self.path / name).with_suffix(".broken")
        discard(broken)
        (self.path / name).rename(broken)

    @override
    def remove_unfinished(self) -> None:
        for partial in self.path.glob("*.partial"):
            discard(partial)


def record_file(path: Path) -> FileRecord:
    """Length and digest of a file."""
    digest = xxhash.xxh3_128()
    length = 0

    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            length += len(chunk)

    return FileRecord(length, digest.hexdigest())


def check_file(path: Path, expected: FileRecord) -> None:
    """Raises CheckpointError if a file is not as it was written."""
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise CheckpointError(f"{path}: has {size:,} bytes, was written with {expected.bytes:,}")
        if record_file(path) != expected:
            raise CheckpointError(f"{path}: its content has changed since it was written (another digest)")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def list_folders(folder: Path) -> list[str]:
    """Names of the finished checkpoints, oldest first, whole or damaged."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir() if entry.name.isdecimal()]
    return sorted(names, key=int)


def read_state(path: Path) -> State:
    """What the checkpoint at `path` says of itself; raises CheckpointError if that is damaged."""
    return LocalFolder(path.parent).state(path.name)


def partial_of(path: Path, prefix: str = "") -> Path:
    """Where a checkpoint is written by a save with this prefix, or deleted."""
    return path.with_suffix(f"{prefix}.partial")


def discard(path: Path) -> None:
    """Removes a half-written folder, as far as the system lets us: what stays is never read. Of a link, only itself."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
