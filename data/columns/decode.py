"""From the Arrow columns of a row group to arrays; every value is checked here, and nowhere after.

Shapes: R rows, D dense inputs, W of one feature, T tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pyarrow as pa

from data.columns.ids import Jagged, Table, decode_ids
from data.columns.numbers import Float32, Label, decode_dense, decode_label, decode_weights
from data.columns.types import (
    Where,
    as_plain,
    problem_as_buckets,
    problem_as_crossed,
    problem_as_ids,
    problem_as_number,
    problem_as_time,
    problem_as_vectors,
    problem_as_weights,
)
from data.columns.vocabulary import Vocabulary
from data.features import Features, SparseFeature
from data.hashing import Int64

Problem = Callable[[pa.DataType], str | None]


@dataclass(frozen=True)
class Columns:
    """What a dataset's columns are to become: everything that decoding needs to know."""

    features: Features
    table_rows: dict[str, int]
    """Rows of the embedding tables, by name."""
    labels: tuple[Label, ...]
    weight: str | None = None
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)
    """Of the tables that have one, by name."""

    @property
    def names(self) -> list[str]:
        """The columns to read, each once."""
        return list(dict.fromkeys(name for name, _ in self._uses))

    @property
    def may_lack(self) -> set[str]:
        """Those of them that a file need not have: null will do for all that read them."""
        readers = [(entry.columns, entry.missing) for entry in self.features.sparse]
        readers += [(entry.columns, entry.missing) for entry in self.features.dense]
        readers += [([label.column], label.missing) for label in self.labels]
        strict = {name for names, missing in readers if missing == "error" for name in names}
        return {name for names, _ in readers for name in names} - strict - {self.weight}

    def problem(self, name: str, kind: pa.DataType) -> str | None:
        """What is wrong with a column of this type for the use that is made of it; None: nothing."""
        problems = (find(kind) for used, find in self._uses if used == name)
        return next(filter(None, problems), None)

    @property
    def _uses(self) -> list[tuple[str, Problem]]:
        """Each use of a column, and what finds out what is wrong with a type for it."""
        uses: list[tuple[str, Problem]] = []
        for feature in self.features.sparse:
            uses += _uses_of_ids(feature)
        for dense in self.features.dense:
            find: Problem = partial(problem_as_vectors, size=dense.size) if dense.size else problem_as_number
            uses += [(name, problem_as_time if dense.since else find) for name in dense.columns]
        numbers = [label.column for label in self.labels] + ([self.weight] if self.weight else [])
        return uses + [(name, problem_as_number) for name in numbers]


def _uses_of_ids(feature: SparseFeature) -> list[tuple[str, Problem]]:
    find: Problem = partial(problem_as_ids, any_id=feature.takes_any_id)
    if feature.parts:
        find = problem_as_time
    elif feature.is_bucketed:
        find = problem_as_buckets
    elif feature.cross:
        find = problem_as_crossed
    uses: list[tuple[str, Problem]] = [(name, find) for name in feature.cross or (feature.column,)]
    return [*uses, (feature.weights, problem_as_weights)] if feature.weights else uses


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
    not_finite: Int64
    """How many NaN and ±inf each dense feature holds in the rows; they count as missing."""

    def __len__(self) -> int:
        return len(self.weights_R)

    @cached_property
    def addresses(self) -> Int64:
        """Of the arrays, for compiled code: values, offsets and weights of each feature, then all others in order.

        0 in place of offsets: every row holds just one id; in place of weights: all are 1.
        """
        values = [entry.values.ctypes.data for entry in self.ids]
        offsets = [0 if entry.offsets is None else entry.offsets.ctypes.data for entry in self.ids]
        weights = [0 if entry.weights is None else entry.weights.ctypes.data for entry in self.ids]
        others = (self.dense_RD.T, self.labels_RT.T, self.weights_R, self.row_ids_R)
        assert all(array.flags.c_contiguous for array in others)
        return np.array([*values, *offsets, *weights, *(array.ctypes.data for array in others), len(self)], np.int64)


def decode(table: pa.Table, columns: Columns, where: Where, chosen: Int64 | None = None) -> Rows:
    """The chosen rows (None: all) of a table that holds `columns.names`, checked and in the order of `chosen`.

    DataError names the row and column of a bad value. Each column is permuted while it lies in the processor's cache,
    where a row's place costs nothing.
    """
    table = table.combine_chunks()
    chosen = np.arange(table.num_rows) if chosen is None else chosen
    num_rows = len(chosen)

    column = partial(plain_column, table)
    ids: list[Jagged] = []
    for feature in columns.features.sparse:
        embedding_table = Table(columns.table_rows[feature.table], columns.vocabularies.get(feature.table))
        ids.append(decode_ids(column, feature, embedding_table, chosen, where))

    dense_DR = np.empty((columns.features.dense_width, num_rows), np.float32)
    not_finite: list[int] = []
    first = 0
    for entry in columns.features.dense:
        target_WR = dense_DR[first : first + entry.width]
        not_finite.append(decode_dense(column, entry, chosen, where, target_WR))
        first += entry.width

    labels_TR = np.empty((len(columns.labels), num_rows), np.float32)
    for index, label in enumerate(columns.labels):
        decode_label(column(label.column), label, chosen, where, labels_TR[index])

    weights_R = np.ones(num_rows, np.float32)
    if columns.weight:
        decode_weights(column(columns.weight), columns.weight, chosen, where, weights_R)

    return Rows(
        ids=tuple(ids),
        dense_RD=dense_DR.T,
        labels_RT=labels_TR.T,
        weights_R=weights_R,
        row_ids_R=np.full(num_rows, -1, np.int64),
        not_finite=np.array(not_finite, np.int64),
    )


def plain_column(table: pa.Table, name: str) -> pa.Array:
    """A column in its plain type and in one piece."""
    chunked = as_plain(table[name])
    if chunked.num_chunks > 1:
        chunked = chunked.combine_chunks()
        return chunked if isinstance(chunked, pa.Array) else chunked.chunk(0)
    return chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)
