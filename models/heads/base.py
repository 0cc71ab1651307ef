"""What every head has in common: features_BF in, logits_BT out.

Shapes: B rows, F features, T tasks.
"""

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from data.settings import Settings

ROWS_IN_CACHE = 512
"""Rows that a CPU takes through the head at once: their activations stay in its cache."""
Width = Annotated[int, Field(gt=0, le=1 << 16)]
PositiveInts = Annotated[tuple[Width, ...], Field(min_length=1)]


class HeadConfig(Settings):
    """Keys that mean the same in every head."""

    tower: tuple[Width, ...] = (64,)
    """Hidden units of each task's tower; [] is a single linear layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of hidden units that a training step drops, after every hidden layer."""

    @abstractmethod
    def build(self, num_features: int, num_tasks: int) -> "Head":
        """The head; ValueError where the numbers do not fit together."""

    def build_on_meta(self, num_features: int, num_tasks: int) -> "Head":
        """The head without memory: for its checks, shapes and counts."""
        with torch.device("meta"):
            return self.build(num_features, num_tasks)


class Head(nn.Module):
    """A head: what it computes for a few rows is `logits`."""

    def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        if features_BF.device.type != "cpu" or len(features_BF) <= ROWS_IN_CACHE:
            return self.logits(features_BF)
        return torch.cat([self.logits(rows_RF) for rows_RF in features_BF.split(ROWS_IN_CACHE)])

    @abstractmethod
    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT; rows are independent of each other."""
