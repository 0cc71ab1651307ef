"""What the ranks read and write is the same on all nodes: the files of a dataset, the folder of a run.

Paths may differ, and a dataset may have a copy on each node. Nodes that see the same names, sizes and times of
modification see the same files; where only the times differ, as those of copies do, the fingerprints decide.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from data.discovery.dataset import listing_digest, read_manifest
from data.discovery.source import Source, find_root
from data.errors import DataError
from data.manifest import Manifest, OnBadFile, manifest_change
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.directory import TOKEN

SEEN_SECONDS = 5.0
"""A file server may show a new file to other nodes a little later."""


def own_copy(manifest: Manifest, source: Source, world: World, on_bad_file: OnBadFile) -> Manifest:
    """The dataset that rank 0 has read, at this rank's own place; raises DataError if it is another. Collective."""
    if world.size == 1:
        return manifest

    listing, host = world.on_rank_zero(lambda: (listing_digest(manifest.source), socket.gethostname()))

    def check() -> Manifest:
        if world.local_rank == 0 or source != manifest.source:  # once a node
            _check_copy(manifest, source, listing, on_bad_file, world.name, f"rank 0 (host {host})")
        return replace(manifest, source=source, root=find_root(source))

    return world.raise_on_all_ranks(check)


def _check_copy(
    manifest: Manifest, source: Source, listing: str, on_bad_file: OnBadFile, own_name: str, first_name: str
) -> None:
    try:
        if listing_digest(source) == listing:
            return
        change = manifest_change(manifest, read_manifest(source, on_bad_file=on_bad_file))
    except DataError as error:
        raise DataError(f"{own_name} cannot read what {first_name} has read: {error}") from error

    if change:
        raise DataError(
            f"dataset {source} of {own_name} is not dataset {manifest.uri} of {first_name}: there, {change}; "
            "give all nodes the same files"
        )


def check_shared(folder: Path, world: World, key: str = "run.dir") -> None:
    """Raises ConfigError if `folder`, of a config's `key`, is not one folder for all ranks.

    It is left as it was. Collective: call on all ranks.
    """
    if world.size == 1 and key == "run.dir":  # whose lock is about to be written
        return
    with _token(folder, world, key) as (name, place):
        world.raise_on_all_ranks(lambda: _look(folder, name, world.name, place, key))


@contextmanager
def _token(folder: Path, world: World, key: str) -> Iterator[tuple[str, str]]:
    """A file that rank 0 has put into `folder`: its name, and where that is. Collective."""
    made: list[Path] = []
    name = f"{TOKEN}{secrets.token_hex(8)}.partial"

    def write() -> tuple[str, str]:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        made.extend(missing)

        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).open("x").close()
        except OSError as error:
            remove()
            raise _not_writable(key, folder, world.name, error.strerror) from error

        return name, f"{str(folder)!r} of {world.name}"

    def remove() -> None:
        with suppress(OSError):  # what others have put there meanwhile stays
            (folder / name).unlink(missing_ok=True)
            for path in made:
                path.rmdir()

    token = world.on_rank_zero(write)
    try:
        yield token
    finally:
        world.on_rank_zero(remove)


def _look(folder: Path, name: str, own_name: str, place: str, key: str) -> None:
    deadline = time.monotonic() + SEEN_SECONDS
    while not (folder / name).exists():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{key} = {str(folder)!r} of {own_name} is not {place}: what is written there is not seen here; "
                "name a folder that all nodes share"
            )

        time.sleep(0.1)

    if not os.access(folder, os.W_OK | os.X_OK):
        raise _not_writable(key, folder, own_name, "permission denied, or mounted for reading")


def _not_writable(key: str, folder: Path, name: str, reason: str | None) -> ConfigError:
    return ConfigError(
        f"{key} = {str(folder)!r} cannot be written by {name} ({reason}); name another folder, or fix its permissions"
    )
