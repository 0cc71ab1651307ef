"""One pass over a dataset: each thread looks at a share of its row groups, and what they have seen is added up."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.columns.decode import plain_column
from data.discovery.footer import UnreadableError
from data.errors import DataError
from data.manifest import Manifest, OnBadFile
from data.pipeline.block_rows import MOST_ROWS
from data.pipeline.blocks import BlockReader
from data.pipeline.row_groups import damage_named, rows_of_group
from data.profile.column import ColumnProfile
from data.profile.columns import Looked, columns_to_look_at
from data.profile.contents import Contents
from data.profile.sample import RowSample

Progress = Callable[[int], None]
"""Called with the number of rows that have been read since."""


@dataclass(frozen=True)
class Wanted:
    """What is looked for besides the columns' moments and frequent values."""

    contents: bool = False
    """Which rows are alike."""
    all_values: bool = False
    """Values of columns that hardly repeat them, too."""
    on_bad_file: OnBadFile = "fail"
    """skip: row groups that cannot be read are left out."""


@dataclass
class DatasetProfile:
    """What is in a dataset, or in a share of it."""

    looked: Looked
    columns: dict[str, ColumnProfile]
    """By path."""
    sample: RowSample
    """Of the rows, without texts."""
    contents: Contents | None
    """Hashes of rows, if they were asked for."""

    def join(self, other: "DatasetProfile") -> None:
        """Adds what another process, or thread, has seen."""
        for path, column in self.columns.items():
            column.join(other.columns[path])
        self.sample.join(other.sample)
        if self.contents is not None and other.contents is not None:
            self.contents.join(other.contents)


def profile_dataset(
    manifest: Manifest,
    names: Sequence[str] | None = None,
    *,
    share: tuple[int, int] = (0, 1),
    threads: int = 2,
    wanted: Wanted = Wanted(),
    progress: Progress,
) -> DatasetProfile:
    """Looks at these columns, or all, in one of several equal shares of a dataset; (0, 3) is the first of three.

    DataError names a row group that cannot be read.

    The same on every number of threads but for the last digits of means.
    """
    looked = columns_to_look_at(manifest, names)

    def look(thread: int) -> DatasetProfile:
        number, shares = share
        groups = range(number * threads + thread, len(manifest.rows), shares * threads)
        return _look(manifest, looked, groups, wanted, progress)

    with ThreadPoolExecutor(threads) as pool:
        first, *others = pool.map(look, range(threads))
    for other in others:
        first.join(other)
    return first


def _look(manifest: Manifest, looked: Looked, groups: range, wanted: Wanted, progress: Progress) -> DatasetProfile:
    columns = {
        path: ColumnProfile(kind, is_list, keeps_all=wanted.all_values) for path, (kind, is_list) in looked.items()
    }
    found = DatasetProfile(looked, columns, RowSample(), Contents() if wanted.contents else None)
    with closing(BlockReader(manifest, list(columns))) as blocks:
        for group in groups:
            for begin in range(0, int(manifest.rows[group]), MOST_ROWS):
                try:
                    table = blocks.read(rows_of_group(manifest, group, begin, MOST_ROWS))
                except UnreadableError:
                    if wanted.on_bad_file == "fail":
                        raise
                    break
                with damage_named(manifest, group):
                    _add(found, table, manifest, group, begin)
                progress(table.num_rows)
    return found


def _add(found: DatasetProfile, table: pa.Table, manifest: Manifest, group: int, begin: int) -> None:
    window = int(manifest.window[group])
    arrays = {path: plain_column(table, path) for path in found.columns}
    for path, column in found.columns.items():
        try:
            column.add(arrays[path], window)
        except DataError as error:
            raise DataError(f"{manifest.describe(group)}: column {path!r} holds {error}; write it as bytes") from error
    first = int(manifest.first_row[group]) + begin
    if found.contents is not None:
        found.contents.add({path: array for path, array in arrays.items() if not found.columns[path].is_list})
    numbers = {path: array for path, array in arrays.items() if found.columns[path].kind != "text"}
    found.sample.add(pa.table(numbers), np.arange(first, first + table.num_rows))
