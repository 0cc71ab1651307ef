"""Which part of a dataset is trained on, and which is tested on, if the user names only the whole."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow import fs

from data.discovery.source import Source, source_of
from data.errors import DataError, one_line
from data.manifest import Manifest
from data.storage.filesystem import open_uri
from data.storage.retries import retried
from trainer.datasets import open_manifest

TEST_SHARE = 0.1
"""Of the dated folders, the last ones."""


@dataclass(frozen=True)
class Split:
    """Training and test data, and why so."""

    train: Source
    test: Source
    reason: str


def split_dataset(uri: str, test: str | None, where: str | None) -> Split:
    """As `adatt init` says; raises DataError if nothing tells what to test on."""
    if test is not None:
        return Split(source_of(uri, where), source_of(test), "as given")

    filesystem, root = open_uri(uri)
    if all(_is_folder(filesystem, f"{root}/{name}", uri) for name in ("train", "test")):
        base = uri.rstrip("/")
        return Split(source_of(f"{base}/train", where), source_of(f"{base}/test"), "folders train and test")

    place = PurePosixPath(root)
    beside = str(place.parent / "test")
    if place.name == "train" and _is_folder(filesystem, beside, uri):
        base = uri.rstrip("/").removesuffix("train")
        return Split(source_of(uri, where), source_of(f"{base}test"), "folder test beside it")

    return _by_date(uri, open_manifest(source_of(uri, where)), where)


def _is_folder(filesystem: fs.FileSystem, path: str, uri: str) -> bool:
    try:
        return bool(retried(filesystem, lambda: filesystem.get_file_info(path)).type == fs.FileType.Directory)
    except OSError as error:
        raise DataError(f"dataset {uri}: cannot be listed ({one_line(error)})") from error


def _by_date(uri: str, manifest: Manifest, where: str | None) -> Split:
    for key, values in manifest.keys.items():
        days = sorted(set(values.to_pylist()) - {None})
        is_dated = str(values.type).startswith("date") or key.lower() in ("dt", "ds", "date", "day")
        if not is_dated or len(days) < 2:
            continue
        num_test = max(int(len(days) * TEST_SHARE), 1)
        first = days[-num_test]
        shown = f"'{first}'" if isinstance(first, str) else str(first)
        before, after = f"{key} < {shown}", f"{key} >= {shown}"
        if where:
            before, after = f"({where}) and {before}", f"({where}) and {after}"
        reason = f"the last {num_test} of {len(days)} values of {key}"
        return Split(Source((uri,), before), Source((uri,), after), reason)

    raise DataError(
        f"dataset {uri}: nothing tells which part of it is to be tested on; name test data with --test, or write "
        "folders train and test, or dated ones such as dt=2022-04-25"
    )
