"""From the Arrow columns of a row group to arrays; every value is checked here, and nowhere after.

Shapes: R rows, D dense inputs, W of one feature, T tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import pyarrow as pa

from data.columns.bad_values import BadRows, BadValueError, without_rows
from data.columns.conditions import problem_in_condition, rows_where
from data.columns.ids import Jagged, Table, decode_ids
from data.columns.numbers import Column, Float32, Label, decode_dense, decode_label, decode_weights
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
from data.conditions import comparisons
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
        readers += [(label.columns, label.missing) for label in self.labels]
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
        for label in self.labels:
            uses += _uses_of_label(label)
        return [*uses, (self.weight, problem_as_number)] if self.weight else uses


def _uses_of_label(label: Label) -> list[tuple[str, Problem]]:
    numbers = [label.column, label.weight] if label.weight else [label.column]
    uses: list[tuple[str, Problem]] = [(name, problem_as_number) for name in numbers]
    if label.where:
        compared = dict.fromkeys(entry.key for entry in comparisons(label.where))
        uses += [(name, partial(problem_in_condition, condition=label.where, name=name)) for name in compared]
    return uses


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
    """NaN = missing, or outside the label's space"""
    label_weights_T: tuple[Float32 | None, ...]
    """Of the labels that have weights of their own."""
    weights_R: Float32
    row_ids_R: Int64
    """Number of each row in the whole dataset, as stored; -1 for rows that are in none."""
    not_finite: tuple[Int64, ...]
    """Of each dense feature, the places of the rows where it is NaN or ±inf, which count as missing; a row of several
    such values is there as often."""
    bad: tuple[BadRows, ...] = ()
    """Rows that stood among these, and were left out for a bad value."""

    def __len__(self) -> int:
        return len(self.weights_R)

    @cached_property
    def bad_places(self) -> Int64:
        """Where the rows stood that were left out, ascending."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *(entry.places for entry in self.bad)]))

    @cached_property
    def addresses(self) -> Int64:
        """Of the arrays, for compiled code: values, offsets and weights of each feature, weights of each label, then
        all others in order.

        0 in place of offsets: every row holds just one id; in place of weights: all are 1.
        """
        values = [entry.values.ctypes.data for entry in self.ids]
        offsets = [0 if entry.offsets is None else entry.offsets.ctypes.data for entry in self.ids]
        weights = [0 if entry.weights is None else entry.weights.ctypes.data for entry in self.ids]
        others = (self.dense_RD.T, self.labels_RT.T, self.weights_R, self.row_ids_R)
        assert all(array.flags.c_contiguous for array in others)
        of_labels = [0 if array is None else array.ctypes.data for array in self.label_weights_T]
        addresses = [*values, *offsets, *weights, *of_labels, *(array.ctypes.data for array in others)]
        return np.array([*addresses, len(self)], np.int64)


def decode(table: pa.Table, columns: Columns, where: Where, chosen: Int64 | None = None) -> Rows:
    """The chosen rows (None: all) of a table that holds `columns.names`, checked and in the order of `chosen`.

    BadValueError names the row and column of a bad value. Each column is permuted while it lies in the processor's
    cache, where a row's place costs nothing.
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
    not_finite: list[Int64] = []
    first = 0
    for entry in columns.features.dense:
        target_WR = dense_DR[first : first + entry.width]
        not_finite.append(decode_dense(column, entry, chosen, where, target_WR))
        first += entry.width

    labels_TR = np.empty((len(columns.labels), num_rows), np.float32)
    label_weights: list[Float32 | None] = []
    for index, label in enumerate(columns.labels):
        decode_label(column(label.column), label, chosen, where, labels_TR[index])
        if label.where:
            labels_TR[index][~rows_where(label.where, column)[chosen]] = np.nan
        label_weights.append(_label_weights(column, label, chosen, where, labels_TR[index]) if label.weight else None)

    weights_R = np.ones(num_rows, np.float32)
    if columns.weight:
        weights_R = _weights(column, columns.weight, chosen, where)

    return Rows(
        ids=tuple(ids),
        dense_RD=dense_DR.T,
        labels_RT=labels_TR.T,
        label_weights_T=tuple(label_weights),
        weights_R=weights_R,
        row_ids_R=np.full(num_rows, -1, np.int64),
        not_finite=tuple(not_finite),
    )


def _weights(column: Column, name: str, chosen: Int64, where: Where) -> Float32:
    weights_R = np.empty(len(chosen), np.float32)
    decode_weights(column(name), name, chosen, where, weights_R)
    return weights_R


def _label_weights(column: Column, label: Label, chosen: Int64, where: Where, labels_R: Float32) -> Float32:
    """A row without the label has a weight of 0, whatever the column holds: what is not known there is null."""
    assert label.weight is not None
    is_known_R = ~np.isnan(labels_R)
    weights_R = np.zeros(len(chosen), np.float32)
    known = np.empty(int(is_known_R.sum()), np.float32)
    decode_weights(column(label.weight), label.weight, chosen[is_known_R], where, known)
    weights_R[is_known_R] = known
    return weights_R


def decode_good(table: pa.Table, columns: Columns, where: Where, chosen: Int64) -> Rows:
    """Like `decode`, without the rows that hold a bad value: they are in `bad`, each once, for the first of its columns
    that is found bad.

    Every attempt leaves out all rows with the same fault of the same column, so that the number of attempts does not
    grow with the rows.
    """
    row_of_place = np.arange(table.num_rows)  # of the rows that are left, their numbers in the whole table
    place_of_row = np.full(table.num_rows, -1)
    place_of_row[chosen] = np.arange(len(chosen))
    is_good_N = np.ones(table.num_rows, np.bool_)
    bad: list[BadRows] = []

    while True:
        new_row = np.cumsum(is_good_N) - 1
        of_good = chosen[is_good_N[chosen]]
        try:
            rows = decode(table, columns, _where_before(where, row_of_place), new_row[of_good])
        except BadValueError as error:
            table = without_rows(table, error.is_bad_N)
            is_good_N[row_of_place[error.is_bad_N]] = False
            bad += _left_out(error, row_of_place[error.is_bad_N], place_of_row)
            row_of_place = row_of_place[~error.is_bad_N]
        else:
            good_places = place_of_row[of_good]
            not_finite = tuple(good_places[places] for places in rows.not_finite)
            return replace(rows, not_finite=not_finite, bad=tuple(bad))


def _where_before(where: Where, row_of_place: Int64) -> Where:
    return lambda row: where(int(row_of_place[row]))


def _left_out(error: BadValueError, rows: Int64, place_of_row: Int64) -> list[BadRows]:
    """What the error says of the chosen ones among its rows."""
    rows = rows[place_of_row[rows] >= 0]
    if not len(rows):
        return []
    rows = rows[np.argsort(place_of_row[rows])]
    return [BadRows(error.column, error.reason, str(error), place_of_row[rows], rows)]


def plain_column(table: pa.Table, name: str) -> pa.Array:
    """A column in its plain type and in one piece."""
    chunked = as_plain(table[name])
    if chunked.num_chunks > 1:
        chunked = chunked.combine_chunks()
        return chunked if isinstance(chunked, pa.Array) else chunked.chunk(0)
    return chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)
