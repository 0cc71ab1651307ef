"""Checkpoints in an object store, which renames nothing.

    s3://bucket/july/2101248/    <save>__<rank>_<n>.distcp, <save>.metadata, and last of all state.json

`state.json` names every other object with its length and digest. It makes them a checkpoint: without it they are what a
save or a deletion has left that was cut short, and the next start removes them. Each save has names of its own, so that
no two ever mix, and a deletion begins with `state.json`. One that was found damaged keeps it as `broken.json`.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import xxhash
from torch.distributed.checkpoint import FileSystemWriter
from typing_extensions import override

from data.storage.retries import is_final
from data.storage.stored_files import PART_BYTES, StoredFiles, reason
from trainer.checkpoint.folder import STATE_FILE, CheckpointFolder
from trainer.checkpoint.safe_load import SafeReader
from trainer.checkpoint.state import FileRecord, State
from trainer.checkpoint.store_files import StoreFileSystem, StoreWriter
from trainer.errors import CheckpointError, ConfigError, RunError

BROKEN_FILE = "broken.json"
_SAVE_BYTES = 4


class StoreFolder(CheckpointFolder):
    """Checkpoints below a URI."""

    def __init__(self, files: StoredFiles) -> None:
        self.files = files
        self._seen: set[str] = set()

    @override
    def where(self, name: str = "", file: str = "") -> str:
        return self.files.where("/".join(part for part in (name, file) if part))

    @override
    def names(self) -> list[str]:
        with answering(self.where()):
            states = [f"{name}/{STATE_FILE}" for name in self._folders()]
            found = self.files.existing(states)
        self._seen = {path.partition("/")[0] for path in found}
        return sorted(self._seen, key=int)

    @override
    def has(self, name: str) -> bool:
        return name in self._seen

    @override
    def begin(self, name: str, segment: int) -> str:
        return secrets.token_hex(_SAVE_BYTES)

    @override
    def writer(self, name: str, prefix: str) -> FileSystemWriter:
        return StoreWriter(self.files, name, prefix)

    @override
    def written(self, writer: FileSystemWriter, name: str, rank: int) -> dict[str, FileRecord]:
        """As they were sent; the store must have as many bytes of each."""
        assert isinstance(writer, StoreWriter)
        with _saving(self.where(name)):
            for file, record in writer.written.items():
                size = self.files.size(f"{name}/{file}")
                if size != record.bytes:
                    raise CheckpointError(f"{self.where(name, file)}: has {size:,} bytes of {record.bytes:,}")
        return writer.written

    @override
    def publish(self, name: str, state: State) -> None:
        with _saving(self.where(name, STATE_FILE)):
            self.files.write(f"{name}/{STATE_FILE}", state.to_json().encode())
        self._seen.add(name)

    @override
    def abandon(self, name: str, prefix: str) -> None:
        """Its `state.json` first: the store may have taken it, though it did not say so."""
        with suppress(OSError):
            names = self.files.names(name)
            if STATE_FILE in names and f'"{prefix}'.encode() in self.files.read(f"{name}/{STATE_FILE}"):
                self.files.delete(f"{name}/{STATE_FILE}")
            for file in names:
                if file.startswith(prefix):
                    self.files.delete(f"{name}/{file}")

    @override
    def why_failed(self, name: str, cause: str) -> str:
        return cause

    @override
    def read_text(self, name: str, file: str) -> str:
        with answering(self.where(name, file)):
            return self.files.read(f"{name}/{file}").decode()

    @override
    def replace_state(self, name: str, state: State) -> None:
        self.publish(name, state)

    @override
    def check_file(self, name: str, file: str, expected: FileRecord) -> None:
        where = self.where(name, file)
        try:
            with answering(where):
                size = self.files.size(f"{name}/{file}")
                if size != expected.bytes:
                    raise CheckpointError(f"{where}: has {size:,} bytes, was written with {expected.bytes:,}")
                if self._digest(f"{name}/{file}", size) != expected.digest:
                    raise CheckpointError(f"{where}: its content has changed since it was written (another digest)")
        except FileNotFoundError as error:
            raise CheckpointError(f"{where}: cannot be read ({reason(error)})") from error

    def _digest(self, path: str, size: int) -> str:
        digest = xxhash.xxh3_128()
        with self.files.reader(path, length=size) as file:
            while chunk := file.read(PART_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    @override
    def reader(self, name: str, index: str) -> SafeReader:
        return SafeReader(name, StoreFileSystem(self.files), index)

    @override
    def thin_out(self, keep: int) -> None:
        super().thin_out(keep)
        self.remove_unfinished()

    @override
    def delete(self, name: str) -> None:
        with _saving(self.where(name)):
            self.files.delete(f"{name}/{STATE_FILE}")
            self._seen.discard(name)
            self.files.delete_folder(name)

    @override
    def set_aside(self, name: str) -> None:
        with answering(self.where(name, BROKEN_FILE)):
            self.files.write(f"{name}/{BROKEN_FILE}", self.files.read(f"{name}/{STATE_FILE}"))
            self.files.delete(f"{name}/{STATE_FILE}")
        self._seen.discard(name)

    @override
    def remove_unfinished(self) -> None:
        with answering(self.where()):
            folders = self._folders()
            complete = self.files.existing([f"{name}/{file}" for name in folders for file in (STATE_FILE, BROKEN_FILE)])
            for name in set(folders) - {path.partition("/")[0] for path in complete}:
                self.files.delete_folder(name)

    def _folders(self) -> list[str]:
        return [name for name, is_file in self.files.names().items() if name.isdecimal() and not is_file]


@contextmanager
def answering(where: str) -> Iterator[None]:
    """Context in which a store that does not answer is no damage; what is not there is a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise refusal(where, error) from error


def refusal(where: str, error: OSError) -> ConfigError | RunError:
    """What to tell where a store refuses something: for ever (exit code 2), or now."""
    if is_final(error):
        return ConfigError(
            f"checkpoint.dir: {where} cannot be used ({reason(error)}); name another place, or fix credentials and "
            "permissions"
        )
    return RunError(f"checkpoint.dir: {where} does not answer ({reason(error)}); start again when it does")


@contextmanager
def _saving(where: str) -> Iterator[None]:
    """Context in which whatever a store refuses is a save that fails: training goes on."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{where}: {reason(error)}") from error
