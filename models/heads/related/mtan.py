"""MTAN, multi-task attention network (Liu, Johns and Davison, CVPR 2019): each task masks the units of one trunk.

    u, p = first and last layer of the level, on the trunk so far
    m_t  = sigmoid(H_t φ(G_t [u, φ(F a_t)]))                 [u] alone on the first level
    a_t' = m_t ⊙ p                                           F: one layer for all tasks, as in the authors' code

The trunk goes on from p, a task's tower reads its last a_t. In the paper all of these are convolutions on images with
batch normalisation; on the rows of a log they are linear layers, and a level of one layer has u = p.

Shapes: B rows, F features, I input width, T tasks, U width of the level's first layer, P of its last.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from models.heads.base import FusionNames, Head, HeadConfig, Sharing
from models.layers import GroupedLinear, GroupedMLP, Towers


class MTANConfig(HeadConfig):
    """One trunk, whose units every task masks after every level."""

    head: Literal["mtan"] = "mtan"

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head."""
        return MTAN(self, num_features, len(tasks))


class MTAN(Head):
    """The head."""

    of_level_and_task = frozenset({"inner", "outer"})

    def __init__(self, config: MTANConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        alone = [1] * num_tasks
        self.trunk = nn.ModuleList()
        self.carry = nn.ModuleList()
        """F of each level but the first."""
        self.inner = nn.ModuleList()
        """G."""
        self.outer = nn.ModuleList()
        """H."""
        inputs = num_features
        for index, (first, *_, last) in enumerate((*level, level[-1]) for level in config.levels):
            self.trunk.append(GroupedMLP([1], inputs, config.levels[index], config.activation, config.dropout))
            if index:
                self.carry.append(Carry(num_tasks, inputs, first, config))
            read = 2 * first if index else first
            self.inner.append(GroupedMLP(alone, read, (last,), config.activation, config.dropout))
            self.outer.append(GroupedLinear(alone, last, last))
            inputs = last

        self.masks = Masks()
        self.num_tasks = num_tasks
        self.towers = Towers(num_tasks, inputs, config.tower, config.activation, config.dropout)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        p_B1P = features_BF
        masked_BTP = features_BF
        masks = []
        for index, trunk in enumerate(self.trunk):
            assert isinstance(trunk, GroupedMLP)
            u_B1U, p_B1P = _first_and_last(trunk, p_B1P)
            read = u_B1U.squeeze(1)
            if index:
                carried_BTU = self.carry[index - 1](masked_BTP)
                read = torch.cat([u_B1U.expand_as(carried_BTU), carried_BTU], dim=2)

            scores_BTP = self.outer[index](self.inner[index](read))
            masks.append(scores_BTP.sigmoid())
            masked_BTP = masks[-1] * p_B1P
        self.masks(masks)
        return self.towers(masked_BTP)

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """The mean mask of each task on every level: how much of the trunk it lets through."""
        return [FusionNames(list(tasks), [f"level {number}" for number in range(len(self.trunk))])]


class Masks(Sharing):
    """Where the masks of all levels can be watched."""

    def forward(self, masks: list[torch.Tensor]) -> list[torch.Tensor]:
        """The same."""
        return masks

    def weights_of(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """means_BTL, over the units of a level."""
        return torch.stack([mask_BTP.mean(dim=2) for mask_BTP in outputs], dim=2)


class Carry(GroupedLinear):
    """F: one layer, through which every task sends its masked units to the next level."""

    def __init__(self, num_tasks: int, inputs: int, outputs: int, config: HeadConfig) -> None:
        super().__init__([1], inputs, outputs, config.activation)
        self.num_tasks = num_tasks
        self.dropout = nn.Dropout(config.dropout)

    @property
    def flops_per_row(self) -> int:
        """Of all tasks."""
        return self.num_tasks * super().flops_per_row

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_BTI → y_BTO."""
        y_R1O = super().forward(x.flatten(0, 1))  # R = B · T
        carried_BTO: torch.Tensor = self.dropout(y_R1O.view(*x.shape[:2], self.outputs))
        return carried_BTO


def _first_and_last(trunk: GroupedMLP, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of the first and the last layer of a level: u_B1U and p_B1P."""
    first, *others = trunk.layers
    u_B1U = p_B1P = trunk.dropout(first(x))
    for layer in others:
        p_B1P = trunk.dropout(layer(p_B1P))
    return u_B1U, p_B1P
