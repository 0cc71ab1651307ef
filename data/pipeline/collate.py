"""Batches are gathered from decoded parts of row groups: one call for all columns and all lanes of several batches.

Shapes: K batches, B rows of this rank in each, S sparse features, D dense inputs, T tasks.

    lane 0: rows 90 … 99 of one part, 0 … 21 of the next    ┐
    lane 1: rows 40 … 71                                    ├─► one array a column ─► K batches, views of it
    lane 2: rows 10 … 29, then 12 rows of padding           ┘
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.batch import Batch
from data.columns.decode import Columns, Rows
from data.columns.ids import id_type
from data.columns.numbers import Float32
from data.compiled import compiled, float32_at, int32_at, int64_at
from data.hashing import Int64

Int32 = NDArray[np.int32]
Bool = NDArray[np.bool_]
PADDING = -1
"""In place of a part: rows that hold no ids and no labels, and weigh 0."""
_DENSE, _LABELS, _WEIGHTS, _ROW_IDS, _NUM_ROWS = range(-5, 0)
"""Where `Rows.addresses` says what follows the ids and the labels' weights."""


class Span(NamedTuple):
    """Rows start … start + num_rows - 1 of a part, or so many of padding, for a lane of the rank."""

    lane: int
    part: int
    start: int
    num_rows: int


def without_bad_rows(span: Span, bad_places: Int64) -> Iterator[Span]:
    """The same rows of a part that has left out some: padding stands in their places."""
    if not len(bad_places):
        yield span
        return

    first, after = np.searchsorted(bad_places, [span.start, span.start + span.num_rows])
    is_bad = np.zeros(span.num_rows, np.bool_)
    is_bad[bad_places[first:after] - span.start] = True
    edges = [0, *(np.flatnonzero(np.diff(is_bad)) + 1).tolist(), span.num_rows]
    start = span.start - int(first)  # among the rows that the part has
    for begin, end in pairwise(edges):
        if is_bad[begin]:
            yield span._replace(part=PADDING, num_rows=end - begin)
        else:
            yield span._replace(start=start, num_rows=end - begin)
            start += end - begin


def assemble(
    columns: Columns, parts: Sequence[Rows], spans: list[Span], rows_per_lane: int, *, pin: bool = False
) -> list[Batch]:
    """The batches that the spans give: those of lane 0 in order, then those of lane 1, …, equally many rows of each."""
    num_lanes = spans[-1].lane + 1
    num_rows = sum(span.num_rows for span in spans)
    batch_rows = rows_per_lane * num_lanes
    num_batches = num_rows // batch_rows
    num_sparse = len(columns.features.sparse)
    num_dense = columns.features.dense_width
    num_tasks = len(columns.labels)
    nothing = np.zeros(3 * num_sparse + num_tasks + 5, np.int64)
    addresses = np.stack([nothing, *(part.addresses for part in parts)])[1:]
    runs = _cut_runs(np.array(spans, np.int64), rows_per_lane)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=pin)

    lengths_KSB = empty(num_batches, num_sparse, batch_rows, dtype=torch.int32)  # as fbgemm takes them
    counts_KS = np.zeros((num_batches, num_sparse), np.int64)
    _count_ids(addresses, runs, lengths_KSB.numpy(), counts_KS)
    values = empty(int(counts_KS.sum()), dtype=torch.int64)
    ends_KS = np.cumsum(counts_KS).reshape(counts_KS.shape)
    table_rows = [columns.table_rows[feature.table] for feature in columns.features.sparse]
    is_int32_S = np.array([id_type(rows) is np.int32 for rows in table_rows], np.bool_)
    _gather_ids(addresses, runs, is_int32_S, ends_KS - counts_KS, values.numpy())
    id_weights = empty(len(values) if columns.features.is_weighted else 0)
    if columns.features.is_weighted:
        _gather_id_weights(addresses, runs, ends_KS - counts_KS, id_weights.numpy())

    dense_KBD = empty(num_batches, batch_rows, num_dense)
    labels_KBT = empty(num_batches, batch_rows, num_tasks)
    label_weights_KBT = empty(num_batches, batch_rows, num_tasks)
    weights_KB = empty(num_batches, batch_rows)
    row_ids_KB = empty(num_batches, batch_rows, dtype=torch.int64)
    _gather_numbers(
        addresses,
        runs,
        dense_KBD.numpy(),
        labels_KBT.numpy(),
        label_weights_KBT.numpy(),
        weights_KB.numpy(),
        row_ids_KB.numpy(),
    )

    keys = [feature.name for feature in columns.features.sparse]
    counts_K = counts_KS.sum(axis=1).tolist()
    all_values = values.split(counts_K)
    all_weights = id_weights.split(counts_K) if columns.features.is_weighted else [None] * num_batches
    all_lengths = lengths_KSB.view(num_batches, num_sparse * batch_rows).unbind()
    sparse = [
        KeyedJaggedTensor(keys, values, weights, lengths)
        for values, weights, lengths in zip(all_values, all_weights, all_lengths, strict=True)
    ]
    others = (dense_KBD, labels_KBT, label_weights_KBT, weights_KB, row_ids_KB)
    return list(map(Batch, sparse, *(tensor.unbind() for tensor in others)))


@compiled
def _cut_runs(spans: Int64, rows_per_lane: int) -> Int64:
    """The spans cut where batches end: (part, start, count, batch, first row in the batch) of each piece."""
    num_runs = 0
    for span in spans:
        num_runs += span[3] // rows_per_lane + 2
    runs = np.empty((num_runs, 5), np.int64)

    num_runs = 0
    lane = -1
    place = 0
    for span in spans:
        if span[0] != lane:
            lane = span[0]
            place = 0
        start = span[2]
        stop = start + span[3]
        while start < stop:
            in_batch = place % rows_per_lane
            count = min(stop - start, rows_per_lane - in_batch)
            runs[num_runs] = (span[1], start, count, place // rows_per_lane, lane * rows_per_lane + in_batch)
            num_runs += 1
            start += count
            place += count

    return runs[:num_runs]


@compiled
def _count_ids(addresses: Int64, runs: Int64, lengths_KSB: Int32, counts_KS: Int64) -> None:
    """How many ids each row has of each feature, and each batch in all."""
    num_sparse = lengths_KSB.shape[1]
    for part, start, count, batch, place in runs:
        for feature in range(num_sparse):
            lengths = lengths_KSB[batch, feature, place : place + count]
            if part == PADDING:
                lengths[:] = 0
                continue

            of_part = addresses[part]
            if of_part[num_sparse + feature] == 0:
                lengths[:] = 1
                counts_KS[batch, feature] += count
                continue

            offsets = int64_at(of_part[num_sparse + feature])
            for index in range(count):
                lengths[index] = offsets[start + index + 1] - offsets[start + index]
            counts_KS[batch, feature] += offsets[start + count] - offsets[start]


@compiled
def _ids_of(address: int, start: int, count: int) -> tuple[int, int]:
    """The first id of rows start … start + count - 1, and how many they have; `address`: of the offsets, or 0."""
    if address == 0:
        return start, count
    offsets = int64_at(address)
    begin = offsets[start]
    return begin, offsets[start + count] - begin


@compiled
def _gather_ids(addresses: Int64, runs: Int64, is_int32_S: Bool, next_KS: Int64, target: Int64) -> None:
    """Copies the ids; `next_KS` is where the next one of a batch and feature goes."""
    num_sparse = next_KS.shape[1]
    for part, start, count, batch, _place in runs:
        if part == PADDING:
            continue

        of_part = addresses[part]
        for feature in range(num_sparse):
            begin, num_ids = _ids_of(of_part[num_sparse + feature], start, count)
            next_place = next_KS[batch, feature]
            if is_int32_S[feature]:
                narrow = int32_at(of_part[feature])
                for index in range(num_ids):
                    target[next_place + index] = narrow[begin + index]
            else:
                wide = int64_at(of_part[feature])
                for index in range(num_ids):
                    target[next_place + index] = wide[begin + index]
            next_KS[batch, feature] += num_ids


@compiled
def _gather_id_weights(addresses: Int64, runs: Int64, next_KS: Int64, target: Float32) -> None:
    """Copies the weights of the ids, 1 where a feature has none; `next_KS` as for the ids."""
    num_sparse = next_KS.shape[1]
    for part, start, count, batch, _place in runs:
        if part == PADDING:
            continue

        of_part = addresses[part]
        for feature in range(num_sparse):
            begin, num_ids = _ids_of(of_part[num_sparse + feature], start, count)
            next_place = next_KS[batch, feature]
            if of_part[2 * num_sparse + feature] != 0:
                weights = float32_at(of_part[2 * num_sparse + feature])
                for index in range(num_ids):
                    target[next_place + index] = weights[begin + index]
            else:
                target[next_place : next_place + num_ids] = 1
            next_KS[batch, feature] += num_ids


@compiled
def _gather_numbers(  # noqa: PLR0913 - an array for each tensor of a batch
    addresses: Int64,
    runs: Int64,
    dense_KBD: Float32,
    labels_KBT: Float32,
    label_weights_KBT: Float32,
    weights_KB: Float32,
    row_ids_KB: Int64,
) -> None:
    num_dense = dense_KBD.shape[2]
    num_tasks = labels_KBT.shape[2]
    for part, start, count, batch, place in runs:
        if part == PADDING:
            dense_KBD[batch, place : place + count] = 0
            labels_KBT[batch, place : place + count] = 0
            label_weights_KBT[batch, place : place + count] = 0
            weights_KB[batch, place : place + count] = 0
            row_ids_KB[batch, place : place + count] = -1
            continue

        of_part = addresses[part]
        num_rows = of_part[_NUM_ROWS]
        weights = float32_at(of_part[_WEIGHTS])
        row_ids = int64_at(of_part[_ROW_IDS])
        for index in range(count):
            weights_KB[batch, place + index] = weights[start + index]
            row_ids_KB[batch, place + index] = row_ids[start + index]

        for column in range(num_dense):
            dense = float32_at(of_part[_DENSE] + 4 * num_rows * column)
            for index in range(count):
                dense_KBD[batch, place + index, column] = dense[start + index]

        # From here on a weight of 0 says which labels are missing: a NaN would survive a product with it.
        for task in range(num_tasks):
            labels = float32_at(of_part[_LABELS] + 4 * num_rows * task)
            own_weights = of_part[_DENSE - num_tasks + task]
            for index in range(count):
                label = labels[start + index]
                is_known = label == label
                labels_KBT[batch, place + index, task] = label if is_known else np.float32(0)
                label_weights_KBT[batch, place + index, task] = np.float32(is_known)
            if own_weights != 0:
                weights_of_label = float32_at(own_weights)
                for index in range(count):
                    label_weights_KBT[batch, place + index, task] *= weights_of_label[start + index]
