"""soft_ordering.

Shapes: B rows, F features, T tasks, D layers and depths.
"""

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.related.soft_ordering import SoftOrderingConfig


class Scores(nn.Module):
    """Of each layer for each task, at one depth."""

    def __init__(self, num_tasks: int, num_layers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_tasks, num_layers))


class SoftOrderingLoop(nn.Module):
    """soft_ordering: every layer for every task at every depth."""

    def __init__(self, config: SoftOrderingConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        width, depth = config.end_to_end[0], len(config.end_to_end)
        self.encoder = nn.ModuleList([Perceptron(num_features, [width])])
        self.shared = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.orders = nn.ModuleList(Scores(num_tasks, depth) for _ in range(depth))
        self.towers = TowersLoop(config, num_tasks, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_tasks = [self.encoder[0](x)] * len(self.towers)
        for order in self.orders:
            assert isinstance(order, Scores)
            weights_TD = torch.softmax(order.scores, dim=1)
            mixed = []
            for weights_D, one in zip(weights_TD, of_tasks, strict=True):
                outputs = [torch.relu(layer(one)) for layer in self.shared]
                mixed.append(sum(weight * output for weight, output in zip(weights_D, outputs, strict=True)))
            of_tasks = mixed
        return self.towers(of_tasks)
