"""One rank's share of a global batch, as tensors.

Shapes: B rows of this rank, S sparse features, D dense inputs, T tasks.
"""

from dataclasses import dataclass, fields

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass
class Batch(Pipelineable):
    """What the model reads, and what the loss compares it with. `data.pipeline.collate` makes it."""

    sparse: KeyedJaggedTensor
    """Table rows of F features × B rows, keyed by feature name in declared order."""
    dense_BD: torch.Tensor
    """float32"""
    labels_BT: torch.Tensor
    """float32; 0 where missing, never NaN"""
    label_weights_BT: torch.Tensor
    """float32; 0 if the label is missing, the row outside its space, or padding; else 1, or the label's own weight"""
    weights_B: torch.Tensor
    """float32; 0 for padding rows"""
    row_ids_B: torch.Tensor
    """int64; the number of each row in its dataset, as stored; -1 for padding rows"""

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """Copy on `device`; asynchronous from pinned memory if `non_blocking` is set."""
        tensors = [getattr(self, field.name) for field in fields(self)]
        return Batch(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the tensors' memory until `stream` has used them."""
        for field in fields(self):
            getattr(self, field.name).record_stream(stream)
