"""An object store as torch.distributed.checkpoint takes a filesystem: by pyarrow.fs, as the datasets are read."""

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import xxhash
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemBase, _StoragePrefix
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future
from typing_extensions import override

from data.storage.retries import retried
from data.storage.stored_files import StoredFiles
from trainer.checkpoint.safe_load import METADATA_FILE
from trainer.checkpoint.state import FileRecord

_WRITE_SECONDS = 300
"""After which what could not be sent is not sent once more."""


class StoreFileSystem(FileSystemBase):
    """Paths are names below the URI of `files`."""

    def __init__(self, files: StoredFiles) -> None:
        self.files = files
        self.written: dict[str, FileRecord] = {}
        """What has been written, by the last part of its name."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        """A file to read, or to fill from its begin to its end."""
        name = os.fspath(path)
        if mode == "rb":
            with self.files.reader(name) as file:
                yield file
            return

        with self.files.stream(name) as stream:
            digested = _Digested(stream)
            try:
                yield digested
            except RuntimeError as error:  # torch's own writer hides what the stream has raised
                raise digested.failure or error from error
        self.written[name.rpartition("/")[2]] = digested.record

    @override
    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return f"{os.fspath(path)}/{suffix}"

    @override
    def init_path(self, path: str | os.PathLike[str]) -> str:
        return os.fspath(path)

    @override
    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """A store has no folders."""

    @override
    def exists(self, path: str | os.PathLike[str]) -> bool:
        return bool(self.files.existing([os.fspath(path)]))

    @override
    def rm_file(self, path: str | os.PathLike[str]) -> None:
        self.files.delete(os.fspath(path))

    @override
    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        raise io.UnsupportedOperation(f"a store renames nothing: {path} to {new_path}")

    @classmethod
    @override
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return isinstance(checkpoint_id, str)


class StoreWriter(FileSystemWriter):
    """Writes a rank's tensors, and the index, in objects whose names begin with `prefix`."""

    def __init__(self, files: StoredFiles, name: str, prefix: str) -> None:
        super().__init__(name, sync_files=False)
        self._store = StoreFileSystem(files)
        self.fs = cast(FileSystem, self._store)
        self.path = name
        self._files = files
        self._prefix = prefix

    @property
    def written(self) -> dict[str, FileRecord]:
        """Length and digest of each object."""
        return self._store.written

    @override
    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [
            replace(plan, storage_data=_StoragePrefix(f"{self._prefix}__{rank}_")) for rank, plan in enumerate(plans)
        ]

    @override
    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """As on a disk; all of this rank's once more where a part of it could not be sent."""
        write = super().write_data
        return retried(self._files.filesystem, lambda: write(plan, planner), _WRITE_SECONDS)

    @override
    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Writes the index under its final name."""
        stored = [result for of_rank in results for result in of_rank]
        metadata.storage_data = {result.index: result.storage_data for result in stored}
        metadata.storage_meta = self.storage_meta()
        index = pickle.dumps(metadata)
        name = f"{self._prefix}{METADATA_FILE}"
        self._files.write(f"{self.path}/{name}", index)
        self.written[name] = FileRecord(len(index), xxhash.xxh3_128_hexdigest(index))

    def _metadata_exists(self) -> bool:
        return False  # each save has names of its own


class _Digested(io.RawIOBase):
    """Counts and digests what goes through it, once, from begin to end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._digest = xxhash.xxh3_128()
        self._length = 0
        self.failure: OSError | None = None

    @property
    def record(self) -> FileRecord:
        return FileRecord(self._length, self._digest.hexdigest())

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            self._stream.write(view)
        except OSError as error:
            self.failure = error
            raise
        self._digest.update(view)
        self._length += len(view)
        return len(view)

    def tell(self) -> int:
        return self._length
