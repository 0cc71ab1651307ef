"""The folder of a study or a search: whether it can be used, and that one at a time does."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.storage.files import open_unlinked
from trainer.errors import ConfigError

DATABASE = "optuna.db"
"""Of a search."""
_OF_OTHERS = {"config.toml": "a run", DATABASE: "a search"}
_LOCK = "lock"


@contextmanager
def held_folder(out: Path, what: str) -> Iterator[None]:
    """Context that makes the folder and keeps others out of it; `what` is to be done in it: "search"."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / _LOCK, "a", opener=open_unlinked)  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigError(f"--out {str(out)!r} cannot be used ({error.strerror}); name another folder") from error

    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"--out {str(out)!r}: a {what} is under way in it; wait for it, stop it, or name another folder"
            ) from error
        yield


def study_folder(out: Path, *, short: bool) -> Path:
    """Where a study's runs and pages go. Raises ConfigError if OUT is not for a study."""
    check_folder(out, "study", {"runs", "tuning", "short"})
    return out / "short" if short else out


def check_folder(out: Path, what: str, marks: set[str]) -> None:
    """Raises ConfigError unless the folder can be made, is empty, or holds one of the `marks` of what it is for."""
    try:
        there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        if not there.is_dir():
            raise ConfigError(f"--out {str(out)!r}: {str(there)!r} is a file; name a folder")
        names = {entry.name for entry in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise ConfigError(f"--out {str(out)!r} cannot be used ({error.strerror}); name another folder") from error

    for mark, kind in _OF_OTHERS.items():
        if mark in names - marks:
            raise ConfigError(f"--out {str(out)!r} is the folder of {kind}; name another folder")
    if names - {_LOCK} and not names & marks:
        raise ConfigError(f"--out {str(out)!r} is not empty and holds no {what}; name another folder")

    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {str(out)!r}: {str(there)!r} is not writable; name another folder")
