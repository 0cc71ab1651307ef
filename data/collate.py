"""A batch is put together from slices of decoded rows.

Shapes: B rows of this rank, S sparse features, D dense features, T tasks.

    lane 0: rows 90 … 99 of one row group, 0 … 21 of the next ┐
    lane 1: rows 40 … 71                                      ├─► one array a column ─► Batch
    lane 2: rows 10 … 29, then 12 rows of padding             ┘
"""

from typing import NamedTuple

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.batch import Batch
from data.columns.decode import Columns, Jagged, Rows
from data.hashing import Int64


class Slice(NamedTuple):
    """Rows start … stop - 1 of decoded rows."""

    rows: Rows
    start: int
    stop: int


def assemble(columns: Columns, slices: list[list[Slice]], rows_per_lane: int) -> Batch:
    """One batch from the slices of each lane, every lane padded to `rows_per_lane` with rows of weight 0."""
    pieces: list[Slice] = []
    for lane_slices in slices:
        pieces += lane_slices
        missing = rows_per_lane - sum(stop - start for _, start, stop in lane_slices)
        if missing:
            pieces.append(Slice(padding(columns, missing), 0, missing))

    labels = [rows.labels_RT[start:stop] for rows, start, stop in pieces]
    weights = [rows.weights_R[start:stop] for rows, start, stop in pieces]
    dense = [rows.dense_RD[start:stop] for rows, start, stop in pieces]
    row_ids = [rows.row_ids_R[start:stop] for rows, start, stop in pieces]
    labels_BT = np.concatenate(labels)

    # From here on the mask says which labels are missing: a NaN would survive a product with weight 0.
    mask_BT = ~np.isnan(labels_BT)
    labels_BT = np.where(mask_BT, labels_BT, np.float32(0))
    return Batch(
        sparse=_keyed_jagged(columns, pieces),
        dense_BD=torch.from_numpy(np.concatenate(dense)),
        labels_BT=torch.from_numpy(labels_BT),
        label_mask_BT=torch.from_numpy(mask_BT),
        weights_B=torch.from_numpy(np.concatenate(weights)),
        row_ids_B=torch.from_numpy(np.concatenate(row_ids)),
    )


def padding(columns: Columns, num_rows: int) -> Rows:
    """Rows that hold no ids and no labels, and weigh 0."""
    num_dense = len(columns.features.dense)
    num_tasks = len(columns.labels)
    no_ids = Jagged(np.zeros(0, np.int64), np.zeros(num_rows + 1, np.int64))

    return Rows(
        ids=(no_ids,) * len(columns.features.sparse),
        dense_RD=np.zeros((num_rows, num_dense), np.float32),
        labels_RT=np.full((num_rows, num_tasks), np.nan, np.float32),
        weights_R=np.zeros(num_rows, np.float32),
        row_ids_R=np.full(num_rows, -1, np.int64),
        not_finite_D=np.zeros(num_dense, np.int64),
    )


def _keyed_jagged(columns: Columns, pieces: list[Slice]) -> KeyedJaggedTensor:
    """Ids of all features end to end, feature by feature, and how many each row has of each."""
    values: list[Int64] = [np.zeros(0, np.int64)]
    lengths: list[Int64] = [np.zeros(0, np.int64)]

    for index in range(len(columns.features.sparse)):
        for rows, start, stop in pieces:
            ids = rows.ids[index].values
            offsets = rows.ids[index].offsets
            values.append(ids[offsets[start] : offsets[stop]])
            lengths.append(np.diff(offsets[start : stop + 1]))

    int32_lengths = np.concatenate(lengths).astype(np.int32)  # as fbgemm takes them
    return KeyedJaggedTensor(
        keys=[feature.name for feature in columns.features.sparse],
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(int32_lengths),
    )
