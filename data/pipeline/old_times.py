"""Times of Parquet's old type INT96, which reaches further than microseconds: Arrow would make others of them.

Such columns are read once more, in milliseconds, which reach as far as the type does.
"""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.columns.types import is_list
from data.discovery.footer import open_parquet
from data.errors import DataError
from data.manifest import Manifest

_LAST_MILLISECOND = (2**63 - 1) // 1000
_BATCH_ROWS = 1 << 16


def check_old_times(manifest: Manifest, group: int, asked: list[str], parquet: pq.ParquetFile) -> None:
    """Raises DataError if a column that is asked for holds a time that microseconds do not reach."""
    if not manifest.has_times[manifest.layout_of(group)]:
        return
    columns = (parquet.schema.column(index) for index in range(len(parquet.schema)))
    old = [column.path for column in columns if column.physical_type == "INT96"]
    names = [path for path in old if any(path == name or path.startswith(f"{name}.") for name in asked)]
    if not names:
        return

    handle = manifest.filesystem.open_input_file(manifest.path(group))
    with open_parquet(handle, unit="ms", metadata=parquet.metadata) as in_milliseconds:
        index = int(manifest.group[group])
        for batch in in_milliseconds.iter_batches(_BATCH_ROWS, row_groups=[index], columns=names, use_threads=False):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if any(map(_is_beyond, _times(column))):
                    raise DataError(
                        f"{manifest.describe(group)}: column {name!r} holds a time more than 292,277 years from 1970, "
                        "which microseconds do not reach; write null where it is no time"
                    )


def _times(array: pa.Array) -> Iterator[pa.Array]:
    """All times in a column, also those inside structs and lists."""
    if pa.types.is_struct(array.type):
        for field in array.flatten():
            yield from _times(field)
    elif is_list(array.type) or pa.types.is_map(array.type):
        yield from _times(array.flatten())
    elif pa.types.is_timestamp(array.type):
        yield array


def _is_beyond(times: pa.Array) -> bool:
    limits = pc.min_max(times.cast(pa.int64()))
    low, high = limits["min"].as_py(), limits["max"].as_py()
    return low is not None and max(-low, high) > _LAST_MILLISECOND
