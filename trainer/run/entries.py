"""What lies in a run's folder: plain files and folders, each where a run has one, all of which may be used.

Libraries write there too (checkpoints, TensorBoard, profiles), and follow whatever link they meet. So there is none
when a start begins, and what this program itself opens is opened without following links (`data.storage.files`). The
run's folder itself may be a link, to a folder on a larger disk.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from trainer.errors import ConfigError


def check_entries(folder: Path) -> None:
    """Raises ConfigError if anything below the folder is a link, or is neither a file nor a folder."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                _check_entry(entry)
    except FileNotFoundError:  # another process has removed it
        return
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read ({error.strerror}); fix its permissions") from error


def _check_entry(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink():
        raise ConfigError(
            f"{entry.path}: is a link to {os.readlink(entry.path)!r}, and links in a run's folder are not followed; "
            "replace it with its target (run.dir itself may be a link, to a folder on another disk)"
        )

    if entry.is_dir(follow_symlinks=False):
        check_entries(Path(entry.path))
    elif not entry.is_file(follow_symlinks=False):
        raise ConfigError(f"{entry.path}: is neither a file nor a folder; remove it")


def check_use(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Raises ConfigError if one of the files or folders is the other kind, or may not be read and written."""
    for path in files:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder, but a file of the run is called so; move it away")
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise ConfigError(f"{path}: is not readable and writable; fix its permissions")

    for path in folders:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path}: is a file, but a folder of the run is called so; move it away")
        if path.exists() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(f"{path}: is not readable and writable; fix the folder's permissions")
