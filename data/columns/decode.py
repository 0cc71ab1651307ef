"""From the Arrow columns of a row group to arrays; every value is checked here, and nowhere after.

Shapes: R rows, D dense features, T tasks.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from data.columns.ids import Jagged, decode_ids
from data.columns.numbers import Float32, decode_dense, decode_label, decode_weights
from data.columns.types import Where, as_plain, problem_as_buckets, problem_as_ids, problem_as_number
from data.features import Features
from data.hashing import Int64


@dataclass(frozen=True)
class Label:
    """A column to learn."""

    column: str
    binary: bool
    """Values other than 0 and 1 are an error."""


@dataclass(frozen=True)
class Columns:
    """What a dataset's columns are to become: everything that decoding needs to know."""

    features: Features
    table_rows: dict[str, int]
    """Rows of the embedding tables, by name."""
    labels: tuple[Label, ...]
    weight: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns to read, each once."""
        names = [*self.features.columns, *(label.column for label in self.labels)]
        if self.weight:
            names.append(self.weight)
        return list(dict.fromkeys(names))

    @property
    def ids(self) -> set[str]:
        """Those of them that are looked up by value; all others are read as numbers."""
        return {feature.column for feature in self.features.sparse if not feature.boundaries}


@dataclass(frozen=True)
class Rows:
    """Decoded rows."""

    ids: tuple[Jagged, ...]
    """One per sparse feature."""
    dense_RD: Float32
    """Each column contiguous, as those of `labels_RT` are."""
    labels_RT: Float32
    """NaN = missing"""
    weights_R: Float32
    row_ids_R: Int64
    """Number of each row in the whole dataset, as stored; -1 for rows that are in none."""
    not_finite_D: Int64
    """How many of the rows hold NaN or ±inf in each dense feature; they count as missing."""

    def __len__(self) -> int:
        return len(self.weights_R)

    @cached_property
    def addresses(self) -> Int64:
        """Of the arrays, for compiled code: values of each feature, offsets of each, then all others in order.

        0 in place of offsets: every row holds just one id.
        """
        values = [entry.values.ctypes.data for entry in self.ids]
        offsets = [0 if entry.offsets is None else entry.offsets.ctypes.data for entry in self.ids]
        others = (self.dense_RD.T, self.labels_RT.T, self.weights_R, self.row_ids_R)
        assert all(array.flags.c_contiguous for array in others)
        return np.array([*values, *offsets, *(array.ctypes.data for array in others), len(self)], np.int64)


def decode(table: pa.Table, columns: Columns, where: Where, chosen: Int64 | None = None) -> Rows:
    """The chosen rows (None: all) of a table that holds `columns.names`, checked and in the order of `chosen`.

    DataError names the row and column of a bad value. Each column is permuted while it lies in the processor's cache,
    where a row's place costs nothing.
    """
    table = table.combine_chunks()
    chosen = np.arange(table.num_rows) if chosen is None else chosen
    num_rows = len(chosen)

    def column(name: str) -> pa.Array:
        chunked = as_plain(table[name])
        return chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)

    ids: list[Jagged] = []
    for feature in columns.features.sparse:
        table_rows = columns.table_rows[feature.table]
        ids.append(decode_ids(column(feature.column), feature, table_rows, chosen, where))

    dense_DR = np.empty((len(columns.features.dense), num_rows), np.float32)
    not_finite_D = np.zeros(len(dense_DR), np.int64)
    for index, entry in enumerate(columns.features.dense):
        not_finite_D[index] = decode_dense(column(entry.column), entry, chosen, where, dense_DR[index])

    labels_TR = np.empty((len(columns.labels), num_rows), np.float32)
    for index, label in enumerate(columns.labels):
        decode_label(column(label.column), label.column, label.binary, chosen, where, labels_TR[index])

    weights_R = np.ones(num_rows, np.float32)
    if columns.weight:
        decode_weights(column(columns.weight), columns.weight, chosen, where, weights_R)

    return Rows(
        ids=tuple(ids),
        dense_RD=dense_DR.T,
        labels_RT=labels_TR.T,
        weights_R=weights_R,
        row_ids_R=np.full(num_rows, -1, np.int64),
        not_finite_D=not_finite_D,
    )


def check_type(name: str, kind: pa.DataType, columns: Columns) -> str | None:
    """What is wrong with a column of this type for the use that `columns` makes of it; None: nothing."""
    for feature in columns.features.sparse:
        if feature.column == name:
            problem = problem_as_buckets(kind) if feature.boundaries else problem_as_ids(kind, feature.hash)
            if problem:
                return problem

    dense = {feature.column for feature in columns.features.dense}
    labels = {label.column for label in columns.labels}
    return problem_as_number(kind) if name in dense | labels | {columns.weight} else None
