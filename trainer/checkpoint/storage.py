"""A checkpoint's folder: what it says of itself, whether it is whole, and how it is read without running its code.

    RUN/checkpoints/2101248/            __<rank>_<n>.distcp, .metadata, state.json
    RUN/checkpoints/2101248.partial/    being written or deleted; never read
    RUN/checkpoints/2101248.broken/     found damaged when a run was resumed

A folder gets its final name in one rename, after `state.json` with the length and digest of every other file has been
written and all of them have been flushed to disk. So a folder with a number for a name that does not verify was damaged
later. The digests find accidents; against a hostile writer nothing that is read can name code to run.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import xxhash

from data.storage.files import replace_text
from trainer.checkpoint.safe_load import METADATA_FILE, SafeReader
from trainer.checkpoint.state import FileRecord, State
from trainer.errors import CheckpointError

STATE_FILE = "state.json"
_CHUNK_BYTES = 1 << 22


def record_files(folder: Path, rank: int) -> dict[str, FileRecord]:
    """Length and digest of the files that a rank has written; rank 0 has written the index too."""
    try:
        written = sorted(folder.glob(f"__{rank}_*"))
        if rank == 0:
            written.append(folder / METADATA_FILE)
        return {path.name: record_file(path) for path in written}
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read back ({error.strerror})") from error


def record_file(path: Path) -> FileRecord:
    """Length and digest of a file."""
    digest = xxhash.xxh3_128()
    length = 0

    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            length += len(chunk)

    return FileRecord(length, digest.hexdigest())


def list_folders(folder: Path) -> list[str]:
    """Names of the finished checkpoints, oldest first, whole or damaged."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir() if entry.name.isdecimal()]
    return sorted(names, key=int)


def partial_of(path: Path) -> Path:
    """Where a checkpoint is written, and deleted."""
    return path.with_suffix(".partial")


def publish(final: Path, state: State) -> None:
    """Makes a complete folder visible under its final name, in one step that survives a power cut."""
    partial = partial_of(final)
    try:
        replace_text(partial / STATE_FILE, state.to_json())
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

    def is_loose(name: str) -> bool:
        try:
            return not read_state(folder / name).pinned
        except CheckpointError:
            return False

    return [name for name in list_folders(folder) if is_loose(name)]


def _delete(path: Path) -> None:
    """Removes a checkpoint; cut short, it leaves a `.partial` folder, never half a checkpoint under a good name."""
    discard(partial_of(path))
    path.rename(partial_of(path))
    discard(partial_of(path))


def pin(path: Path) -> None:
    """Keeps an existing checkpoint for good."""
    state = read_state(path)
    if not state.pinned:
        replace_text(path / STATE_FILE, replace(state, pinned=True).to_json())
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
    """What the checkpoint at `path` says of itself; raises CheckpointError if that is damaged."""
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
    """Raises CheckpointError if one of these files of the checkpoint at `path` is not as it was written."""
    for name in names:
        check_file(path / name, state.files[name])


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


def check_index(path: Path) -> State:
    """What the checkpoint at `path` says of itself.

    Raises CheckpointError if its index is none, or points outside it.
    """
    state = read_state(path)
    file = path / METADATA_FILE
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


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
