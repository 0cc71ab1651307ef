"""What every head has in common: features_BF in, logits_BT out."""

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from data.settings import Settings

PositiveInts = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]


class HeadConfig(Settings):
    """Keys that mean the same in every head."""

    tower: tuple[Annotated[int, Field(gt=0)], ...] = (64,)
    """Hidden units of each task's tower; [] is a single linear layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of hidden units that a training step drops, after every hidden layer."""

    @abstractmethod
    def build(self, num_features: int, num_tasks: int) -> nn.Module:
        """The head; ValueError where the numbers do not fit together."""

    def build_on_meta(self, num_features: int, num_tasks: int) -> nn.Module:
        """The head without memory: for its checks, shapes and counts."""
        with torch.device("meta"):
            return self.build(num_features, num_tasks)
