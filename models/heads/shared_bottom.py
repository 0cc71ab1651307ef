"""Shared-bottom (Caruana, 1997): one trunk for all tasks, one tower per task. The usual baseline.

Shapes: B rows, F features, T tasks.
"""

from typing import Literal

import torch
from pydantic import Field

from models.heads.base import Head, HeadConfig, PositiveInts
from models.heads.layers import GroupedMLP, Towers


class SharedBottomConfig(HeadConfig):
    """One trunk, one tower per task."""

    head: Literal["shared_bottom"] = "shared_bottom"
    levels: tuple[PositiveInts, ...] = Field(default=((256,), (128,)), min_length=1)
    """Hidden units of the trunk; levels only matter to heads that fuse, so they are laid end to end."""

    def build(self, num_features: int, num_tasks: int) -> Head:
        """The head."""
        return SharedBottom(self, num_features, num_tasks)


class SharedBottom(Head):
    """The head."""

    def __init__(self, config: SharedBottomConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        layers = tuple(width for level in config.levels for width in level)
        self.trunk = GroupedMLP(1, num_features, layers, config.dropout, common_input=True)
        self.towers = Towers(num_tasks, layers[-1], config.tower, config.dropout, common_input=True)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        return self.towers(self.trunk(features_BF).squeeze(0))
