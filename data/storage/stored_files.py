"""Files below a URI, read and written whole or in parts, with the patience that stores need (`data.storage.retries`).

An object appears complete or not at all. On a disk, too, a file is replaced in one step.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

from pyarrow import fs

from data.errors import one_line
from data.storage.files import replaced
from data.storage.filesystem import open_uri
from data.storage.retries import retried

PART_BYTES = 1 << 26
"""Asked for at once: enough for full speed, little enough to be asked for again."""


class StoredFiles:
    """The files below a URI. Whatever the filesystem refuses for good is an OSError; see `reason`."""

    def __init__(self, uri: str, what: str = "dataset") -> None:
        """Raises DataError if nothing opens the URI; `what` it is of, for that message."""
        self.uri = uri
        self.filesystem, self.root = open_uri(uri, what)

    @property
    def is_local(self) -> bool:
        """Whether they are on a disk."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def below(self, name: str) -> "StoredFiles":
        """Those in a folder."""
        place, mark, options = self.uri.partition("?")
        inner = copy(self)
        inner.uri = f"{place.rstrip('/')}/{name}{mark}{options}"
        inner.root = f"{self.root}/{name}"
        return inner

    def where(self, name: str) -> str:
        """What messages call a file."""
        return f"{self.uri.partition('?')[0].rstrip('/')}/{name}"

    def names(self, below: str = "", *, recursive: bool = False) -> dict[str, bool]:
        """What is in a folder, and whether each is a file; nothing where there is none."""
        top = self._path(below)
        selector = fs.FileSelector(top, recursive=recursive, allow_not_found=True)
        found = retried(self.filesystem, lambda: self.filesystem.get_file_info(selector))
        return {info.path.removeprefix(f"{top}/"): info.type == fs.FileType.File for info in found}

    def size(self, name: str) -> int:
        """Bytes of a file; FileNotFoundError if there is none."""
        info = retried(self.filesystem, lambda: self.filesystem.get_file_info(self._path(name)))
        if info.type != fs.FileType.File:
            raise FileNotFoundError(2, "No such file or directory", self.where(name))
        return int(info.size)

    def existing(self, names: list[str]) -> list[str]:
        """Those of the names that are files."""
        paths = [self._path(name) for name in names]
        infos = retried(self.filesystem, lambda: self.filesystem.get_file_info(paths))
        return [name for name, info in zip(names, infos, strict=True) if info.type == fs.FileType.File]

    def read(self, name: str) -> bytes:
        """A whole file; FileNotFoundError if there is none."""

        def attempt() -> bytes:
            with self.filesystem.open_input_file(self._path(name)) as file:
                return bytes(file.read())

        return retried(self.filesystem, attempt)

    def reader(self, name: str, begin: int = 0, length: int | None = None) -> io.BufferedReader:
        """A file, or a part of it, to read and seek in."""
        part = _Part(self, name, begin, self.size(name) - begin if length is None else length)
        return io.BufferedReader(part, buffer_size=1 << 20)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, or replaces it, in one step."""
        if self.is_local:
            path = Path(self._path(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as file:
                file.write(data)
            return

        def attempt() -> None:
            with self.filesystem.open_output_stream(self._path(name)) as stream:
                stream.write(data)

        retried(self.filesystem, attempt)

    @contextmanager
    def stream(self, name: str) -> Iterator[Any]:
        """Context with a file to fill, made once: whoever fills it tries again. What is cut short may stay."""
        with self.filesystem.open_output_stream(self._path(name)) as stream:
            yield stream

    def delete(self, name: str) -> None:
        """Deletes a file; that it is gone already is no error."""
        with suppress(FileNotFoundError):
            retried(self.filesystem, lambda: self.filesystem.delete_file(self._path(name)))

    def delete_folder(self, name: str) -> None:
        """Deletes all below a folder, in no order; that it is gone already is no error."""
        with suppress(FileNotFoundError):
            retried(self.filesystem, lambda: self.filesystem.delete_dir(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")


class _Part(io.RawIOBase):
    """Bytes of a file from `begin` on, asked for by their places; what is cut short is asked for again."""

    def __init__(self, files: StoredFiles, name: str, begin: int, length: int) -> None:
        self._files = files
        self._name = name
        self._begin = begin
        self._length = length
        self._at = 0
        self._open: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = origin + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        num_bytes = max(min(len(buffer), PART_BYTES, self._length - self._at), 0)
        if num_bytes:
            buffer[:num_bytes] = retried(self._files.filesystem, lambda: self._read(num_bytes))
            self._at += num_bytes
        return num_bytes

    def _read(self, num_bytes: int) -> bytes:
        try:
            if self._open is None:
                self._open = self._files.filesystem.open_input_file(self._files._path(self._name))
            data = bytes(self._open.read_at(num_bytes, self._begin + self._at))
            if len(data) < num_bytes:
                raise OSError(f"{self._files.where(self._name)}: cut short")
            return data
        except OSError:
            self._open = None
            raise


def reason(error: OSError) -> str:
    """Why something failed, in one line."""
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    return error.strerror or one_line(error)
