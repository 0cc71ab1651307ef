"""Paths as users write them, in a config or on the command line."""

import os
import re
from pathlib import Path

from data.errors import ExpectedError

_NAME_BYTES = 255
"""Of a name on every common filesystem."""
_PATH_BYTES = 4_095
"""Of a path that Linux takes."""


def full_path(text: str | Path) -> Path:
    """The path with `~` put in full; raises ValueError if no file can be called so."""
    written = os.fspath(text)
    if not written.strip():
        raise ValueError(f"{written!r} is empty; write a path")
    if "\0" in written:
        raise ValueError(f"{written!r} holds a NUL character, which no path does")

    try:
        path = Path(written).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{written!r}: there is no such home folder; write the path in full") from error

    for name in path.parts:
        if len(os.fsencode(name)) > _NAME_BYTES:
            raise ValueError(f"{written[:40] + '…'!r}: a name in it is longer than {_NAME_BYTES} bytes; shorten it")

    if len(os.fsencode(path)) > _PATH_BYTES:
        raise ValueError(f"{written[:40] + '…'!r} is longer than {_PATH_BYTES:,} bytes; shorten it")

    return path


def local_path(text: str | Path) -> Path:
    """The same; ValueError too where it is the URI of something that is not on a disk of this machine."""
    written = os.fspath(text)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", written):  # `Path` makes one slash of two: a folder called 's3:'
        raise ValueError(
            f"{written!r}: only a local path can be used here, and files be copied to or from it by other means"
        )
    return full_path(text)


def path_of(option: str, text: str | Path) -> Path:
    """A local path on the command line; ExpectedError names the option."""
    try:
        return local_path(text)
    except ValueError as error:
        raise ExpectedError(f"{option} {error}") from error
