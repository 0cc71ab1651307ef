"""Cross-stitch network (Misra et al., CVPR 2016): one network for each task, mixed after every level.

    h_t  = the level's layers of task t, on f_t                     (f⁰ = x)
    f_t' = Σ_s α_{t,s} h_s          α: a learned T × T matrix per level, the same for every sample

Shapes: B rows, F features, T tasks, H width of the level.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from models.heads.base import FusionNames, Head, HeadConfig, Shares
from models.layers import GroupedMLP, Towers, mix

SELF_WEIGHT = 0.9
"""A task's initial weight on itself; the others share the rest (0.9 and 0.1: Misra et al., section 5.1)."""


class CrossStitchConfig(HeadConfig):
    """One network for each task, linearly mixed after every level."""

    head: Literal["cross_stitch"] = "cross_stitch"

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head."""
        return CrossStitch(self, num_features, len(tasks))


class CrossStitch(Head):
    """The head."""

    of_level_and_task = frozenset({"levels"})
    of_all_tasks = frozenset({"stitches"})

    def __init__(self, config: CrossStitchConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        inputs = (num_features, *(layers[-1] for layers in config.levels))
        self.levels = nn.ModuleList()
        self.stitches = nn.ModuleList()

        for width, layers in zip(inputs, config.levels, strict=False):
            level = GroupedMLP([1] * num_tasks, width, layers, config.activation, config.dropout)
            self.levels.append(level)

        for layers in config.levels:
            self.stitches.append(Stitch(num_tasks, layers[-1]))

        self.towers = Towers(num_tasks, inputs[-1], config.tower, config.activation, config.dropout)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        x = features_BF
        for level, stitch in zip(self.levels, self.stitches, strict=True):
            x = stitch(level(x))
        return self.towers(x)

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """α of each level."""
        return [FusionNames(list(tasks), list(tasks)) for _ in self.levels]


class Stitch(nn.Module):
    """A cross-stitch unit. Kept for backward: its input."""

    def __init__(self, num_tasks: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.shares = Shares()
        self.weight = nn.Parameter(torch.empty(num_tasks, num_tasks))
        """Row t: what task t takes from each."""
        self.reset_parameters()

    @property
    def flops_per_row(self) -> int:
        """Of the product."""
        return 2 * self.weight.numel() * self.width

    def reset_parameters(self) -> None:
        """Near the identity; with one task the identity itself."""
        others = len(self.weight) - 1
        with torch.no_grad():
            self.weight.fill_((1 - SELF_WEIGHT) / others if others else 1)
            if others:
                self.weight.fill_diagonal_(SELF_WEIGHT)

    def forward(self, x_BTH: torch.Tensor) -> torch.Tensor:
        """Mixed, _BTH."""
        self.shares(self.weight.expand(x_BTH.shape[0], -1, -1))
        return mix(self.weight, x_BTH)
