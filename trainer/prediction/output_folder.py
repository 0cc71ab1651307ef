"""The folder that `adatt predict` writes to, on any filesystem.

Files are written in place, since an object store cannot rename a folder. They count only once `_SUCCESS` is there; the
program's own reader, like others, does not take a name with an underscore for data.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import pyarrow as pa
from pyarrow import fs

from data.errors import DataError, one_line
from data.manifest import Manifest
from data.storage.filesystem import open_uri
from data.storage.paths import path_of

MARKER = "_SUCCESS"


@dataclass(frozen=True)
class Scored:
    """What was scored: the content of the marker."""

    samples: int
    """Trained samples of the checkpoint."""
    fingerprint: str
    """Of the input."""
    rows: int
    files: int
    seconds: float

    def __str__(self) -> str:
        speed = self.rows / self.seconds
        return f"{self.rows:,} rows scored at {self.samples:,} samples, {speed:,.0f} rows/s: {self.files:,} files"


class OutputFolder:
    """Raises DataError, which names the folder, for everything that its filesystem refuses."""

    def __init__(self, uri: str) -> None:
        if "://" not in uri:
            path_of("--out", uri)

        self._uri = uri
        self.filesystem, self._root = open_uri(uri)
        self._was_made_here = False

    def path(self, name: str) -> str:
        """The path of a file in the folder, on its filesystem."""
        return f"{self._root}/{name}"

    def check(self, source: Manifest) -> None:
        """Raises DataError if the folder is in use, or part of the dataset that is read; writes nothing."""
        with self.explained():
            info = self.filesystem.get_file_info(self._root)
            names = self._names() if info.type == fs.FileType.Directory else []

        if info.type == fs.FileType.File:
            raise DataError(f"--out {self._uri} is a file; name a folder that is empty or does not exist")

        if names:
            state = "is not empty" if MARKER in names else f"is not empty, and holds no {MARKER} of a complete output"
            raise DataError(f"--out {self._uri} {state}; choose another folder or remove it")

        if self.filesystem.equals(source.filesystem) and self._lies_in(source.root):
            raise DataError(f"--out {self._uri} lies in the dataset {source.uri} and would change it; choose another")

    def _lies_in(self, root: str) -> bool:
        """Whether the folder is below another one, also by way of links."""
        inner = self._root
        outer = root
        if isinstance(self.filesystem, fs.LocalFileSystem):
            inner = os.path.realpath(inner)
            outer = os.path.realpath(outer)
        return f"{inner}/".startswith(f"{outer}/")

    def create(self) -> None:
        """Makes the folder."""
        with self.explained():
            info = self.filesystem.get_file_info(self._root)
            self._was_made_here = info.type == fs.FileType.NotFound
            self.filesystem.create_dir(self._root, recursive=True)

    def finish(self, names: list[str], scored: Scored) -> None:
        """Writes the marker. Raises DataError if a file of another rank is not here: the storage is not shared then."""
        with self.explained():
            missing = sorted({*names} - {*self._names()})
            if missing:
                raise DataError(
                    f"--out {self._uri}: {missing[0]} has been written, but not here; name storage that all nodes share"
                )

            with self.filesystem.open_output_stream(self.path(MARKER)) as stream:
                line = json.dumps(asdict(scored)) + "\n"
                stream.write(line.encode())

    def remove(self) -> None:
        """Removes the folder if it was made here and holds no file any more, as far as that is possible."""
        with suppress(OSError):
            if self._was_made_here and not self._names():
                self.filesystem.delete_dir(self._root)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Context in which an error of the filesystem becomes a DataError that names the folder."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"--out {self._uri}: cannot be written ({one_line(error)}); make room, or name another place "
                "that all ranks can write to"
            ) from error

    def _names(self) -> list[str]:
        """Names of all that is in the folder."""
        infos = self.filesystem.get_file_info(fs.FileSelector(self._root))
        return [info.base_name for info in infos]
