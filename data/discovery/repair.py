"""A dataset of which files were repaired: other contents, but the same rows, so that all rows stay where they were."""

from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from data.discovery.growth import schemas_with
from data.errors import DataError
from data.manifest import Manifest, digest_of, file_states


def repaired(known: Manifest, now: Manifest) -> tuple[Manifest, list[str]]:
    """`known` with what `now` says of files whose contents have changed, and the names of these files.

    Only files with as many rows and row groups as before count; `known` keeps what it says of all others. Raises
    DataError if such a file holds other numbers of rows in its row groups: rows would change places.
    """
    before, after = file_states(known), file_states(now)
    shared = sorted(before.keys() & after.keys())
    changed = [name for name in shared if before[name] != after[name] and before[name][:2] == after[name][:2]]
    if not changed:
        return known, []

    place = {name: index for index, name in enumerate(known.files)}
    place_now = {name: index for index, name in enumerate(now.files)}
    sizes = known.bytes.copy()
    digests = list(known.digests)
    for name in changed:
        groups = _groups_of(known, place[name])
        groups_now = _groups_of(now, place_now[name])
        if not np.array_equal(known.rows[groups], now.rows[groups_now]):
            raise _moved(now, name)
        sizes[groups] = now.bytes[groups_now]
        digests[place[name]] = now.digests[place_now[name]]

    is_now = known.files == now.files and tuple(digests) == now.digests
    others, layouts = schemas_with(known, now, changed)
    manifest = replace(
        known,
        bytes=sizes,
        digests=tuple(digests),
        fingerprint=now.fingerprint if is_now else digest_of(zip(known.files, digests, strict=True)),
        history=(*known.history, known.fingerprint),
        other_schemas=tuple(others),
        layouts=layouts,
    )
    return manifest, [_shown(now, name) for name in changed]


def _groups_of(manifest: Manifest, file: int) -> slice:
    """The row groups of a file, which lie one after the other."""
    begin, end = np.searchsorted(manifest.file, [file, file + 1])
    return slice(begin, end)


def _moved(now: Manifest, name: str) -> DataError:
    return DataError(
        f"data.train = {now.uri!r} has changed since the run began: {_shown(now, name)} has as many rows and row "
        "groups as before, but other numbers of rows in them, so that rows would change places; write it with the same "
        "row groups, restore it, or train in another folder"
    )


def _shown(manifest: Manifest, name: str) -> str:
    """The name of a file; a dataset that is one file has no names below it."""
    return name or PurePosixPath(manifest.root).name
