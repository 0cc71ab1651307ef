"""The named columns of one file's rows, whatever the file stores of them.

stored in the file              its column, or the field of it that a path leads to
a key of the file's folders     the same value in every row
in neither                      nulls; whether that is allowed was decided when the dataset was opened
"""

import pyarrow as pa
import pyarrow.parquet as pq

from data.columns.kinds import readable
from data.discovery.fields import parquet_names, pick
from data.manifest import Manifest


def names_to_read(manifest: Manifest, group: int, names: list[str], parquet: pq.ParquetFile) -> list[str]:
    """What to ask the file of a row group for, to have the columns `names`."""
    schema = manifest.schema_of(group)
    there = set(schema.names)
    asked = [name for name in names if name in there]
    leaves: list[str] = []

    for name in names:
        if name in there or "." not in name:
            continue
        leaves = leaves or [parquet.schema.column(index).path for index in range(len(parquet.schema))]
        asked += parquet_names(schema, leaves, name)

    return asked or schema.names[:1]  # a table without columns would not know its rows


def complete(manifest: Manifest, group: int, names: list[str], stored: pa.Table) -> pa.Table:
    """The columns `names`, in types that can be read (`readable`), of rows of a row group."""
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    there = {name: index for index, name in enumerate(stored.column_names)}
    for name in names:
        column = stored.column(there[name]) if name in there else pick(stored, name)
        if column is None:
            columns[name] = _constant(manifest, group, name, stored.num_rows)
            continue
        wanted = readable(column.type)
        columns[name] = column if column.type == wanted else column.cast(wanted)
    return pa.table(columns)


def _constant(manifest: Manifest, group: int, name: str, num_rows: int) -> pa.Array:
    if name not in manifest.keys:
        return pa.nulls(num_rows)
    return pa.repeat(manifest.keys[name][int(manifest.file[group])], num_rows)
