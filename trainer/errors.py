"""Errors of configs, checkpoints and runs; see `data.errors` for the tree."""

import errno

from data.errors import ExpectedError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class ConfigError(ExpectedError):
    """A config key, a run directory or a command-line value is wrong."""


class CheckpointError(ExpectedError):
    """A checkpoint cannot be used as asked."""


class RunError(Exception):
    """The run cannot go on, for no fault of its input; the message is one line that says what to do. Exit code 1."""


def file_error(error: OSError) -> RunError:
    """What to tell of a file that the system does not let us use."""
    if error.errno in DISK_FULL:
        return disk_full(error)
    return RunError(f"{error.filename}: {error.strerror}; fix its permissions or the disk, and start again to resume")


def disk_full(error: OSError) -> RunError:
    """What to tell of a disk that has no room."""
    return RunError(f"{error.filename or 'disk'}: {error.strerror}; make room and start again to resume")
