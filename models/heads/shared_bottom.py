"""Shared-bottom (Caruana, 1997): one trunk for all tasks, one tower for each. The usual baseline.

`single_task` is the control: every task has a trunk of its own too, so that none learns from another in the head. The
embedding tables are shared with the other tasks even so.

Shapes: B rows, F features, T tasks.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from models.heads.base import Head, HeadConfig
from models.layers import GroupedMLP, Towers


class SharedBottomConfig(HeadConfig):
    """One trunk, one tower for each task."""

    head: Literal["shared_bottom"] = "shared_bottom"

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head."""
        return TrunkHead(self, num_features, len(tasks), num_trunks=1)


class SingleTaskConfig(HeadConfig):
    """A trunk and a tower for each task."""

    head: Literal["single_task"] = "single_task"

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head."""
        return TrunkHead(self, num_features, len(tasks), num_trunks=len(tasks))


class TrunkHead(Head):
    """One trunk that all towers read, or one for each task."""

    def __init__(self, config: HeadConfig, num_features: int, num_tasks: int, num_trunks: int) -> None:
        super().__init__()
        layers = config.end_to_end
        self.has_one_trunk = num_trunks == 1
        if not self.has_one_trunk:
            self.of_task = self.of_task | {"trunk"}
        self.trunk = GroupedMLP([1] * num_trunks, num_features, layers, config.activation, config.dropout)
        self.meeting: nn.Module = nn.Identity()
        self.towers = Towers(num_tasks, layers[-1], config.tower, config.activation, config.dropout)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        trunk_BNH = self.trunk(features_BF)
        return self.towers(self.meeting(trunk_BNH.squeeze(1)) if self.has_one_trunk else trunk_BNH)

    def meet_at_trunk(self, gate: nn.Module) -> None:
        """Puts `gate` behind the trunk; raises ValueError if each task has one of its own."""
        if not self.has_one_trunk:
            super().meet_at_trunk(gate)
        self.meeting = gate
