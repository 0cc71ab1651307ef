"""Vocabularies from files, and from the ids that a dataset's columns hold.

Shapes: N different ids.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.columns.bad_values import NotAnIdError, without_rows
from data.columns.flat import to_integers
from data.columns.types import is_list, is_text, plain_type, problem_as_ids
from data.columns.vocabulary import Vocabulary
from data.errors import DataError, one_line
from data.storage.files import replaced
from data.storage.filesystem import open_uri
from data.storage.retries import retried

VALUE = "value"
"""The column of ids in a vocabulary's file."""


def read_vocabulary(uri: str, unknown_rows: int) -> Vocabulary:
    """The ids in a Parquet file, in their order; DataError if there is no such file, or it holds something else."""
    filesystem, path = open_uri(uri)
    try:
        table = retried(filesystem, lambda: pq.read_table(path, filesystem=filesystem, page_checksum_verification=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"vocabulary {uri}: not a Parquet file that can be read ({one_line(error)})") from error
    if VALUE not in table.column_names:
        raise DataError(f"vocabulary {uri}: no column {VALUE!r}, which holds the ids; it has {table.column_names}")

    values = table[VALUE]
    kind = plain_type(values.type)
    problem = "is a list of them" if is_list(kind) else problem_as_ids(kind, any_id=True)
    if problem is not None:
        raise DataError(f"vocabulary {uri}: column {VALUE!r} {problem}; write a number or text a row")
    if len(values) == 0 or values.null_count:
        raise DataError(f"vocabulary {uri}: has {len(values):,} rows, {values.null_count:,} of them null; write ids")
    try:
        return Vocabulary(_normal(values.combine_chunks()), unknown_rows)
    except NotAnIdError as error:
        raise DataError(f"vocabulary {uri}: holds {error}") from error
    except DataError as error:
        raise DataError(f"vocabulary {uri}: {error}") from error


def write_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Writes a file for `read_vocabulary`, which appears complete or not at all; raises OSError if it cannot."""
    with replaced(path) as file:
        pq.write_table(pa.table({VALUE: vocabulary.values}), file, write_page_checksum=True)


def count_ids(columns: Mapping[str, pa.Table], *, skip_bad: bool = False) -> pa.Table:
    """The `value` and `count` of several columns added up, the most frequent first; of equally frequent ones
    the smaller first.

    Raises DataError if a value is no id, unless `skip_bad` is set, or if one column holds text and another numbers.
    """
    tables = [_counted(name, table, skip_bad) for name, table in columns.items()]
    kinds = {table[VALUE].type for table in tables if table.num_rows}
    if not kinds:
        return tables[0].slice(0, 0)
    if len(set(map(is_text, kinds))) > 1:
        raise DataError(f"columns {', '.join(map(repr, columns))} hold text and numbers; write their ids alike")

    kind = pa.large_binary() if len(kinds) > 1 else kinds.pop()
    parts = [table.set_column(0, VALUE, table[VALUE].cast(kind)) for table in tables if table.num_rows]
    added = pa.concat_tables(parts).group_by(VALUE, use_threads=False).aggregate([("count", "sum")])
    added = added.select([VALUE, "count_sum"]).rename_columns([VALUE, "count"])
    return added.sort_by([("count", "descending"), (VALUE, "ascending")])


def frequent_ids(counted: pa.Table, most: int, min_count: int) -> pa.Array:
    """The first of `count_ids`: up to so many, each of which occurs at least so often."""
    return counted.filter(pc.field("count") >= min_count).slice(0, most)[VALUE].combine_chunks()


def _counted(name: str, table: pa.Table, skip_bad: bool) -> pa.Table:
    """The counts of a column, its ids in one of three types."""
    while True:
        try:
            return pa.table({VALUE: _normal(table[VALUE].combine_chunks()), "count": table["count"]})
        except NotAnIdError as error:
            if not skip_bad:
                advice = "or leave such values out with --set data.on_bad_value=skip"
                raise DataError(f"column {name!r} holds {error}; {advice}") from error
            table = without_rows(table, error.is_bad_V)


def _normal(values: pa.Array) -> pa.Array:
    """Ids as text or bytes, or as int64; raises NotAnIdError for others."""
    if isinstance(values, pa.ChunkedArray):  # of none, or more than one
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    values = values.cast(plain_type(values.type))
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not is_text(values.type):
        return pa.array(np.asarray(to_integers(values), np.int64))
    is_string = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    return values.cast(pa.large_string() if is_string else pa.large_binary())
