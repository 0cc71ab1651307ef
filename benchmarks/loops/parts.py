"""What the loop versions of heads are made of.

Shapes: B rows, I input width, H output width, E experts, T tasks.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from models.heads.base import HeadConfig


class Perceptron(nn.ModuleList):
    """Linear layers with a ReLU after each; a tower's last has none."""

    def __init__(self, inputs: int, layers: Sequence[int], is_tower: bool = False) -> None:
        widths = [inputs, *layers]
        super().__init__(nn.Linear(width_in, width_out) for width_in, width_out in pairwise(widths))
        self.is_tower = is_tower

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_BI → y_BH."""
        for index, layer in enumerate(self):
            x = layer(x)
            if not (self.is_tower and index + 1 == len(self)):
                x = torch.relu(x)
        return x


class TowersLoop(nn.ModuleList):
    """A tower for each task."""

    def __init__(self, config: HeadConfig, num_tasks: int, inputs: int) -> None:
        layers = [*config.tower, 1]
        super().__init__(Perceptron(inputs, layers, is_tower=True) for _ in range(num_tasks))

    def forward(self, of_tasks: list[torch.Tensor]) -> torch.Tensor:
        """logits_BT."""
        return torch.cat([tower(x) for tower, x in zip(self, of_tasks, strict=True)], dim=1)


def weighted_sum(weights_BE: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
    """Σ_e weights[:, e] · experts[e]."""
    stacked_BEH = torch.stack(experts, dim=1)
    return torch.bmm(weights_BE.unsqueeze(1), stacked_BEH).squeeze(1)
