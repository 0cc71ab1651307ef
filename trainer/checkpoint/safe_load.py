"""Checkpoints are read without running code that they name: their index, and whatever is not a tensor, are pickled."""

import io
import pickle
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemBase, _StorageInfo
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

METADATA_FILE = ".metadata"
_ONE_REQUEST_BYTES = 1 << 26


class SafeReader(FileSystemReader):
    """Reads the pickled index through an allow-list; the tensors themselves are read with `weights_only`."""

    def __init__(self, path: str | Path, files: FileSystemBase | None = None, index: str = METADATA_FILE) -> None:
        """`files`: where it is not a disk."""
        super().__init__(path)
        if files is not None:
            self.fs = cast(FileSystem, files)
            self.path = files.init_path(path)
        self._asks_once = files is not None
        self._index = index

    def _slice_file(self, file: IO[bytes], sinfo: _StorageInfo) -> IO[bytes]:
        """A tensor's bytes; from a store in one request where they are few, as `torch.load` jumps to and fro."""
        if not self._asks_once or sinfo.length > _ONE_REQUEST_BYTES:
            return super()._slice_file(file, sinfo)
        file.seek(sinfo.offset)
        return io.BytesIO(file.read(sinfo.length))

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002
        """The index; raises pickle.UnpicklingError if it names anything but its own parts."""
        with self.fs.create_stream(self.fs.concat_path(self.path, self._index), "rb") as file:
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
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        if name in _INDEX_PARTS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"names {module}.{name}, which is no part of an index")


def _memory_format(kind: object, name: str) -> Any:
    """Until 3.11.3, Python pickled the member of an enumeration as `getattr(enumeration, name)`: this one is known."""
    if kind is _MEM_FORMAT_ENCODING and name in _MEM_FORMAT_ENCODING.__members__:
        return _MEM_FORMAT_ENCODING[name]
    raise pickle.UnpicklingError(f"names attribute {name!r} of {kind!r}, which is no part of an index")
