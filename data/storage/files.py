"""Files that are written: never through a link, and where they replace others, complete or not at all.

A link in the place of a file would let whoever made it choose what is overwritten. So it is an error that names it.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from data.errors import one_line

_NEVER = os.O_NOFOLLOW | os.O_NONBLOCK
"""Neither follow a link nor wait for the other end of a pipe."""


class LinkError(OSError):
    """A link in the place of a file to write."""


def open_unlinked(path: str, flags: int) -> int:
    """For `open(path, mode, opener=open_unlinked)`; raises LinkError if `path` is a link."""
    try:
        return os.open(path, flags | _NEVER, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise LinkError(error.errno, "it is a link, and links are not followed", path) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context whose OSErrors name the file: those of a write, and pyarrow's, do not. A link is named itself."""
    try:
        yield
    except LinkError:
        raise
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or one_line(error), str(path)) from error


@contextmanager
def replaced(path: Path, *, by_many: bool = False) -> Iterator[BinaryIO]:
    """A file to fill, which takes the place of `path` in one step: a power cut leaves the old or the new one, whole.

    `by_many`: several processes may do so at once. Raises OSError if it cannot; nothing is left of it then.
    """
    partial = path.with_suffix(f".{os.getpid()}.partial" if by_many else ".partial")
    with naming(path), open(partial, "wb", opener=open_unlinked) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def replace_text(path: Path, text: str) -> None:
    """Writes a text, or replaces it, in one step as `replaced` does; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        file.write(text.encode())
