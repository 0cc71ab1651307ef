"""Which folders a container needs: one with the data, which it reads, and one with the runs, which it writes."""

import posixpath
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainer.config.run_config import Config
from trainer.errors import ConfigError

WORKING_FOLDER = "/adatt"
"""Of the image; paths of a config are relative to it."""
CONFIG_FILE = "/etc/adatt/run.toml"
"""The config in a container."""
_OWN = ("/tmp", "/dev", "/proc", "/sys", "/etc", "/opt")
"""Folders that a container has for itself."""


@dataclass(frozen=True)
class Volumes:
    """Folders as the config names them: relative (`datasets`), or absolute (`/data`)."""

    runs: str
    datasets: str | None
    """None: the data lies in an object store."""


def folder_inside(folder: str) -> str:
    """Where a container has it."""
    return posixpath.join(WORKING_FOLDER, folder)


def volumes_of(config: Config) -> Volumes:
    """The first folder of each local path; ConfigError if one volume cannot hold them."""
    runs = _first_folder("run.dir", config.run.dir)
    place = config.checkpoint.dir
    if place is not None and "://" not in place.removeprefix("file://"):
        raise ConfigError(
            f"checkpoint.dir = {place!r} is a folder, and containers have none but those of data and run.dir; leave it "
            "out, or name a store"
        )
    sources = [config.data.train_source, config.data.test_source]
    uris = [uri.removeprefix("file://") for source in sources if source is not None for uri in source.uris]
    datasets = sorted({_first_folder("data", uri) for uri in uris if "://" not in uri})

    if len(datasets) > 1:
        raise ConfigError(
            f"data.train and data.test lie in {' and '.join(datasets)}, but a job mounts one volume of data; put them "
            "into one folder"
        )
    if runs in datasets:
        raise ConfigError(
            f"run.dir and the data both lie in {runs}, but a job reads its data from a volume that it cannot write to; "
            "put the runs into another folder"
        )

    return Volumes(runs, datasets[0] if datasets else None)


def _first_folder(key: str, path: str) -> str:
    """`datasets` of datasets/quickstart/train, `/data` of /data/train."""
    parts = PurePosixPath(posixpath.normpath(path)).parts
    folder = posixpath.join(*parts[:2]) if parts[0] == "/" else parts[0]
    if folder in ("/", ".", "..", "~", *_OWN) or not folder.isprintable():
        raise ConfigError(
            f"{key}: {path!r} cannot be mounted into a container; name a folder below the working folder, such as "
            "datasets or runs, or an absolute one such as /data"
        )
    return folder
