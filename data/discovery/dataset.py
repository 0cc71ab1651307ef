"""A dataset is opened: its files are listed, and their footers read into a manifest.

    listing (paths, sizes, times) ─► cached? ─► the manifest of last time
                                     else    ─► footers, many at once ─► manifest ─► cache

Reading 100,000 footers takes minutes on an object store, so a manifest is cached in the user's cache folder, under the
listing of the dataset. A run keeps its own copy, which says later what was trained, and what has changed since.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import fs

from data.discovery.footer import Footer, UnreadableError, read_footer, same_columns
from data.discovery.listing import SHOWN, below
from data.discovery.source import Found, Source, find, source_of
from data.errors import DataError
from data.manifest import Manifest, OnBadFile, digest_of
from data.storage.manifest_file import load_cached, save_cached

FOOTER_THREADS = 32
"""Footers are read at once; an object store answers each in tens of milliseconds."""
_CACHED = 4
"""Manifests that earlier versions cached do not say which file has which columns."""
CACHE = Path("~/.cache/adatt/manifests")
ReadFooter = tuple[fs.FileInfo, Footer]
Progress = Callable[[int, int], None]
"""Called with how many footers have been read, of how many."""


def read_manifest(
    uri: str | Source,
    cache: Path | None = CACHE,
    *,
    on_bad_file: OnBadFile = "fail",
    progress: Progress | None = None,
) -> Manifest:
    """Manifest of the dataset at `uri`, a path or any URI that pyarrow.fs opens; raises DataError if there is none.

    A file whose footer cannot be read is an error, or with `on_bad_file = "skip"` in `left_out`; never all of them.
    """
    source = source_of(uri)
    found = find(source)
    root, listed = found.root, found.listing
    entries = [(below(root, info), info.size, info.mtime_ns) for info in listed.files]
    listing = digest_of([_CACHED, *entries])

    cached = _cache_file(cache, f"{digest_of([(*source.uris, source.where, root)])}.parquet")
    manifest = load_cached(cached, listing, on_bad_file)
    is_new = manifest is None

    if manifest is None:
        footers, left_out = _read_footers(found, str(source), on_bad_file, progress)
        manifest = _manifest_of(source, root, footers, left_out)

    if manifest.num_rows == 0:
        raise DataError(
            f"dataset {source}: its {len(manifest.files)} Parquet files hold no rows; write some, or name another"
        )

    if cached and is_new:
        save_cached(manifest, cached, listing)

    return replace(
        manifest,
        source=source,
        num_unread=len(listed.unread),
        unread=listed.unread[:SHOWN],
        num_waiting=len(found.waiting),
        waiting=found.waiting[:SHOWN],
    )


def listing_digest(source: Source) -> str:
    """Of the names, sizes and times of modification of the dataset's files; raises DataError if there are none."""
    found = find(source)
    return digest_of((below(found.root, info), info.size, info.mtime_ns) for info in found.listing.files)


def _cache_file(cache: Path | None, name: str) -> Path | None:
    """None if no cache is wanted, or the user has no home for one."""
    try:
        return cache.expanduser() / name if cache else None
    except RuntimeError:
        return None


def _read_footers(
    found: Found, uri: str, on_bad_file: OnBadFile, progress: Progress | None
) -> tuple[list[ReadFooter], list[tuple[str, str]]]:
    """The footers of all files that can be read, and the names of the others with the reason."""
    infos = found.listing.files

    def read(info: fs.FileInfo) -> Footer | UnreadableError:
        try:
            return read_footer(found.filesystem, info)
        except UnreadableError as error:
            if on_bad_file == "fail":
                raise
            return error

    footers: list[ReadFooter] = []
    errors: list[tuple[str, UnreadableError]] = []

    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        for done, (info, result) in enumerate(zip(infos, pool.map(read, infos), strict=True)):
            if progress is not None:
                progress(done, len(infos))
            if isinstance(result, Footer):
                footers.append((info, result))
            else:
                errors.append((below(found.root, info), result))

    if not footers:
        raise DataError(f"dataset {uri}: none of its {len(errors)} Parquet files can be read; {errors[0][1]}")

    return footers, [(name, error.reason) for name, error in errors]


def _manifest_of(source: Source, root: str, footers: list[ReadFooter], left_out: list[tuple[str, str]]) -> Manifest:
    names = [below(root, info) for info, _ in footers]
    states = [(info.size, footer.digest) for info, footer in footers]
    num_groups = [len(footer.rows) for _, footer in footers]
    indexes = [np.arange(count) for count in num_groups]
    rows = [count for _, footer in footers for count in footer.rows]
    sizes = [size for _, footer in footers for size in footer.bytes]

    ((_, schema), *other_schemas), layouts = _distinct_schemas(root, footers)
    return Manifest(
        source=source,
        files=tuple(names),
        file=np.repeat(np.arange(len(names)), num_groups),
        group=np.concatenate(indexes),
        rows=np.array(rows, np.int64),
        bytes=np.array(sizes, np.int64),
        schema=schema,
        fingerprint=digest_of((name, *state) for name, state in zip(names, states, strict=True)),
        digests=tuple(digest_of([state]) for state in states),
        left_out=tuple(left_out),
        root=root,
        other_schemas=tuple(other_schemas),
        layouts=layouts,
    )


def _distinct_schemas(root: str, footers: list[ReadFooter]) -> tuple[list[tuple[str, pa.Schema]], tuple[int, ...]]:
    """Each schema once, with the first file that has it; and the place of each file's own among them.

    How a file without rows would store some does not matter.
    """
    is_empty = not sum(rows for _, footer in footers for rows in footer.rows)
    distinct: list[tuple[str, pa.Schema]] = []
    layouts = []

    for info, footer in footers:
        known = (place for place, (_, schema) in enumerate(distinct) if same_columns(footer.schema, schema))
        place = next(known, len(distinct))
        if place == len(distinct) and (is_empty or sum(footer.rows) > 0):
            distinct.append((below(root, info), footer.schema))
        layouts.append(place if place < len(distinct) else 0)

    return distinct, tuple(layouts)
