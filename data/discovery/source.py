"""Where a dataset lies: a file, a folder, a pattern such as logs/dt=2022-04-*, or a list of them; and of a dataset in
partitions, which are wanted.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from pyarrow import fs

from data.discovery.listing import Listing, Prune, below, is_hidden, list_dataset
from data.discovery.partitions import keys_of
from data.discovery.where import parse_where
from data.errors import DataError, one_line
from data.storage.filesystem import open_uri
from data.storage.retries import retried

_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Source:
    """A dataset as the user names it."""

    uris: tuple[str, ...]
    where: str | None = None
    complete: str | None = None
    """Only folders that hold a file of this name count."""

    def __str__(self) -> str:
        return ", ".join(self.uris)


@dataclass(frozen=True)
class Found:
    """Where a dataset was found."""

    filesystem: fs.FileSystem
    root: str
    """The folder that all of its files lie in, or the one file that it is."""
    listing: Listing
    waiting: tuple[str, ...] = ()
    """Folders below the root that do not hold the file of `Source.complete` yet; their files are not listed."""


def source_of(uris: str | Sequence[str] | Source, where: str | None = None, complete: str | None = None) -> Source:
    """From what a config or the command line says; a source stays as it is."""
    if isinstance(uris, Source):
        return uris
    return Source((uris,) if isinstance(uris, str) else tuple(uris), where, complete)


def find(source: Source) -> Found:
    """The files of a dataset; DataError if there are none, some would be missed, or some would count twice."""
    filesystem, places, root = _open(source)
    prune = _pruner(source, root)
    listings = [list_dataset(filesystem, place, str(source), prune) for place in places]
    files = tuple(sorted((info for listing in listings for info in listing.files), key=lambda info: info.path))
    unread = [f"{place}/{name}" for place, listing in zip(places, listings, strict=True) for name in listing.unread]

    if places != [root]:
        _refuse_twice(source, root, files, is_local=isinstance(filesystem, fs.LocalFileSystem))
    if source.where:
        files = _wanted(source, root, files)
    waiting: list[str] = []
    if source.complete:
        files, waiting = _complete(source, source.complete, filesystem, files)
    return Found(filesystem, root, Listing(files, _names_below(root, unread)), _names_below(root, waiting))


def _names_below(root: str, paths: list[str]) -> tuple[str, ...]:
    return tuple(sorted(path.removeprefix(root).lstrip("/") for path in paths))


def _complete(
    source: Source, marker: str, filesystem: fs.FileSystem, files: tuple[fs.FileInfo, ...]
) -> tuple[tuple[fs.FileInfo, ...], list[str]]:
    """The files in whose folders the marker lies, and the other folders; raises DataError if there are no files."""
    folders = list(dict.fromkeys(info.path.rpartition("/")[0] for info in files))
    paths = [f"{folder}/{marker}" for folder in folders]
    found = retried(filesystem, lambda: filesystem.get_file_info(paths))
    whole = {folder for folder, info in zip(folders, found, strict=True) if info.is_file}
    if not whole:
        raise DataError(
            f"dataset {source}: none of its {len(folders):,} folders holds {marker!r} yet, as data.complete asks"
        )
    complete = tuple(info for info in files if info.path.rpartition("/")[0] in whole)
    return complete, [folder for folder in folders if folder not in whole]


def find_root(source: Source) -> str:
    """The folder that all files of a dataset lie in, or the one file that it is."""
    return _open(source)[2]


def _open(source: Source) -> tuple[fs.FileSystem, list[str], str]:
    """The store, the paths that the dataset's files lie below, and the folder that has all of these."""
    opened = [open_uri(uri) for uri in source.uris]
    filesystem = opened[0][0]
    places: list[str] = []
    bases: list[str] = []
    for uri, (other, path) in zip(source.uris, opened, strict=True):
        if not filesystem.equals(other):
            raise DataError(f"dataset {source}: {uri} is not in the store of {source.uris[0]}; name one store")
        matched = _matches(filesystem, path, uri)
        places += matched or [path]
        bases.append(_base(path) if matched else path)

    is_plain = bases == places and len(places) == 1
    return filesystem, places, bases[0] if is_plain else _common_folder(filesystem, bases)


def _matches(filesystem: fs.FileSystem, path: str, uri: str) -> list[str]:
    """What a pattern stands for, sorted; empty if the path is no pattern, or is that of something."""
    if not _PATTERN.search(path):
        return []
    try:
        if retried(filesystem, lambda: filesystem.get_file_info(path)).type != fs.FileType.NotFound:
            return []
        base = _base(path)
        found = [base]
        for pattern in PurePosixPath(path).relative_to(base).parts:
            found = [entry for folder in found for entry in _children(filesystem, folder, pattern)]
    except OSError as error:
        raise DataError(f"dataset {uri}: cannot be listed ({one_line(error)})") from error
    if not found:
        raise DataError(f"dataset {uri}: no file or folder matches the pattern")
    return sorted(found)


def _children(filesystem: fs.FileSystem, folder: str, pattern: str) -> list[str]:
    """Of a folder, what matches and is not hidden."""
    selector = fs.FileSelector(folder, allow_not_found=True)
    names = [info.base_name for info in retried(filesystem, lambda: filesystem.get_file_info(selector))]
    matching = [name for name in names if fnmatchcase(name, pattern) and not is_hidden(name)]
    return [f"{folder.rstrip('/')}/{name}" for name in matching]


def _base(path: str) -> str:
    """The folders of a pattern before its first sign."""
    parts = PurePosixPath(path).parts
    fixed = next(index for index, part in enumerate(parts) if _PATTERN.search(part))
    return str(PurePosixPath(*parts[:fixed]))


def _common_folder(filesystem: fs.FileSystem, places: list[str]) -> str:
    folders = []
    for place in places:
        is_file = filesystem.get_file_info(place).is_file
        folders.append(PurePosixPath(place).parent if is_file else PurePosixPath(place))
    common = folders[0]
    for folder in folders[1:]:
        while common != folder and common not in folder.parents:
            if common == common.parent:
                raise DataError(f"{folders[0]} and {folder} lie in no common folder; name one store")
            common = common.parent
    return str(common)


def _pruner(source: Source, root: str) -> Prune | None:
    """Tells of a folder whether no partition in it is wanted."""
    if not source.where:
        return None
    where = parse_where(source.where)
    return lambda path: where.holds(keys_of(path.removeprefix(root))) is False


def _wanted(source: Source, root: str, files: tuple[fs.FileInfo, ...]) -> tuple[fs.FileInfo, ...]:
    where = parse_where(source.where or "")
    wanted = []
    for info in files:
        folder = below(root, info).rpartition("/")[0]
        verdict = where.holds(keys_of(folder))
        if verdict is None:
            missing = sorted(where.keys - keys_of(folder).keys())[0]
            raise DataError(
                f"dataset {source}: where = {where.text!r} asks for {missing!r}, which is no key of the folders of "
                f"{below(root, info)}; name keys as in dt=2022-04-25/, or leave where out"
            )
        if verdict:
            wanted.append(info)
    if not wanted:
        raise DataError(f"dataset {source}: where = {where.text!r} fits none of its partitions; name others")
    return tuple(wanted)


def _refuse_twice(source: Source, root: str, files: tuple[fs.FileInfo, ...], *, is_local: bool) -> None:
    seen: set[str] = set()
    for info in files:
        path = os.path.realpath(info.path) if is_local else info.path
        if path in seen:
            raise DataError(f"dataset {source}: {below(root, info)} is named twice, so that its rows would count twice")
        seen.add(path)
