"""Soft ordering of shared layers (Meyerson and Miikkulainen, ICLR 2018): the same D layers at every depth.

    f_t⁰     = φ(V x + c)                                    one encoder, as all tasks read the same row
    f_t^d+1  = Σ_j s_{t,d,j} φ(W_j f_t^d + b_j)              d, j = 0 … D - 1
    s_{t,d}  = softmax of D learned scores                   equal at the start

Each task finds its own order of the layers, and mixtures of orders. Layers must fit at every depth, so all have one
width. In the paper each task has an encoder, since its tasks read different inputs.

Shapes: B rows, F features, T tasks, D layers and depths, W their width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from models.heads.base import FusionNames, Head, HeadConfig, Layers, Shares
from models.layers import GroupedLinear, GroupedMLP, Towers, fuse


class SoftOrderingConfig(HeadConfig):
    """The same layers for all tasks at every depth, mixed by each task at each depth."""

    head: Literal["soft_ordering"] = "soft_ordering"
    levels: tuple[Layers, ...] = Field(default=((128,), (128,)), min_length=1)

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head; raises ValueError if the layers differ in width."""
        if len(set(self.end_to_end)) > 1:
            raise ValueError(
                f"model.levels = {[list(level) for level in self.levels]}: soft_ordering puts every layer at every "
                "depth, so all must have one width"
            )
        return SoftOrdering(self, num_features, len(tasks))


class SoftOrdering(Head):
    """The head. Kept for backward at each depth: its input, the layers' outputs and the weights."""

    of_all_tasks = frozenset({"orders"})

    def __init__(self, config: SoftOrderingConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        depth, width = len(config.end_to_end), config.end_to_end[0]
        self.num_tasks = num_tasks
        self.encoder = GroupedMLP([1], num_features, (width,), config.activation, config.dropout)
        self.shared = GroupedLinear([depth], width, width, config.activation)
        self.dropout = nn.Dropout(config.dropout)
        self.orders = nn.ModuleList(Order(num_tasks, depth) for _ in range(depth))
        self.towers = Towers(num_tasks, width, config.tower, config.activation, config.dropout)

    @property
    def flops_per_row(self) -> int:
        """Of all mixtures, and of the layers from the second depth on: there each task has an input of its own."""
        num_layers, width, _ = self.shared.weight.shape
        mixtures = 2 * self.num_tasks * num_layers * width
        return num_layers * mixtures + (num_layers - 1) * self.num_tasks * self.shared.flops_per_row

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        x_BW = self.encoder(features_BF).squeeze(1)
        y_BDW = self.dropout(self.shared(x_BW))
        x_BTW, *others = (order(x_BW.shape[0]) for order in self.orders)
        x_BTW = fuse(x_BTW, y_BDW)
        for weights_BTD in others:
            y_RDW = self.dropout(self.shared(x_BTW.flatten(0, 1)))  # R = B · T
            x_BTW = fuse(weights_BTD.flatten(0, 1).unsqueeze(1), y_RDW).view(x_BTW.shape)
        return self.towers(x_BTW)

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """What each task takes from each layer, depth by depth."""
        layers = [f"layer {number}" for number in range(len(self.orders))]
        return [FusionNames(list(tasks), layers) for _ in self.orders]


class Order(nn.Module):
    """Which layers each task uses at a depth."""

    def __init__(self, num_tasks: int, num_layers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.empty(num_tasks, num_layers))
        self.shares = Shares()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All layers alike."""
        nn.init.zeros_(self.scores)

    def forward(self, num_rows: int) -> torch.Tensor:
        """weights_BTD: the same for every row."""
        weights_BTD: torch.Tensor = self.shares(self.scores.softmax(dim=1).expand(num_rows, -1, -1))
        return weights_BTD
