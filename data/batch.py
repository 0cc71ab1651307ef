"""One rank's share of a global batch, as tensors.

Shapes: B rows of this rank, F sparse features, D dense features, T tasks.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from data.columns.decode import Columns, Jagged, Rows
from data.hashing import Int64

Slice = tuple[Rows, int, int]
"""Rows start … stop of decoded rows."""


@dataclass
class Batch(Pipelineable):
    """What the model reads, and what the loss compares it with."""

    sparse: KeyedJaggedTensor
    """Table rows of F features × B rows, keyed by feature name in declared order."""
    dense_BD: torch.Tensor
    """float32"""
    labels_BT: torch.Tensor
    """float32; 0 where missing, never NaN"""
    label_mask_BT: torch.Tensor
    """bool; False where the label is missing or the row is padding"""
    weights_B: torch.Tensor
    """float32; 0 for padding rows"""
    row_ids_B: torch.Tensor
    """int64; the number of each row in its dataset, as stored; -1 for padding rows"""

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """Copy on `device`; asynchronous from pinned memory where asked."""
        return Batch(*(getattr(self, field.name).to(device, non_blocking=non_blocking) for field in fields(self)))

    def pin_memory(self) -> "Batch":
        """Copy in page-locked memory, from which copies to a GPU overlap with computation."""
        return Batch(*(getattr(self, field.name).pin_memory() for field in fields(self)))

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the tensors' memory until `stream` has used them."""
        for field in fields(self):
            getattr(self, field.name).record_stream(stream)


def assemble(columns: Columns, slices: list[list[Slice]], rows_per_lane: int) -> Batch:
    """One batch from the slices of each lane, every lane padded to `rows_per_lane` with rows of weight 0."""
    pieces: list[Slice] = []
    for lane_slices in slices:
        missing = rows_per_lane - sum(stop - start for _, start, stop in lane_slices)
        pieces += [*lane_slices, (padding(columns, missing), 0, missing)] if missing else lane_slices
    labels_BT = np.concatenate([rows.labels_RT[start:stop] for rows, start, stop in pieces])
    weights_B = np.concatenate([rows.weights_R[start:stop] for rows, start, stop in pieces])
    dense_BD = np.concatenate([rows.dense_RD[start:stop] for rows, start, stop in pieces])
    mask_BT = ~np.isnan(labels_BT)
    return Batch(
        sparse=_keyed_jagged(columns, pieces),
        dense_BD=torch.from_numpy(dense_BD),
        labels_BT=torch.from_numpy(np.where(mask_BT, labels_BT, np.float32(0))),
        label_mask_BT=torch.from_numpy(mask_BT),
        weights_B=torch.from_numpy(weights_B),
        row_ids_B=torch.from_numpy(np.concatenate([rows.row_ids_R[start:stop] for rows, start, stop in pieces])),
    )


def padding(columns: Columns, count: int) -> Rows:
    """Rows that hold nothing and weigh nothing."""
    nothing = Jagged(np.zeros(0, np.int64), np.zeros(count + 1, np.int64))
    return Rows(
        ids=(nothing,) * len(columns.features.sparse),
        dense_RD=np.zeros((count, len(columns.features.dense)), np.float32),
        labels_RT=np.full((count, len(columns.labels)), np.nan, np.float32),
        weights_R=np.zeros(count, np.float32),
        row_ids_R=np.full(count, -1, np.int64),
        not_finite_D=np.zeros(len(columns.features.dense), np.int64),
    )


def _keyed_jagged(columns: Columns, pieces: list[Slice]) -> KeyedJaggedTensor:
    values: list[Int64] = []
    lengths: list[Int64] = []
    for index in range(len(columns.features.sparse)):
        for rows, start, stop in pieces:
            ids = rows.ids[index]
            values.append(ids.values[ids.offsets[start] : ids.offsets[stop]])
            lengths.append(np.diff(ids.offsets[start : stop + 1]))
    empty = [np.zeros(0, np.int64)]
    return KeyedJaggedTensor(
        keys=[feature.name for feature in columns.features.sparse],
        values=torch.from_numpy(np.concatenate(values or empty)),
        lengths=torch.from_numpy(np.concatenate(lengths or empty).astype(np.int32)),
    )
