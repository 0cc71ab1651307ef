"""Networks of tasks: shared_bottom, single_task and cross_stitch.

Shapes: B rows, F features, T tasks.
"""

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.base import HeadConfig


class StitchLoop(nn.Module):
    """A cross-stitch unit's matrix."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(num_tasks))


class TrunkLoop(nn.Module):
    """shared_bottom: one trunk; single_task: one for each task."""

    def __init__(self, config: HeadConfig, num_features: int, num_tasks: int, num_trunks: int) -> None:
        super().__init__()
        layers = [width for level in config.levels for width in level]
        self.trunk = nn.ModuleList(Perceptron(num_features, layers) for _ in range(num_trunks))
        self.towers = TowersLoop(config, num_tasks, layers[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        trunks = [trunk(x) for trunk in self.trunk]
        if len(trunks) == 1:
            trunks *= len(self.towers)
        return self.towers(trunks)


def mixed(weight_T: torch.Tensor, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
    """Σ_s α_s h_s, in the order of the tasks."""
    total = weight_T[0] * hidden[0]
    for weight, of_task in zip(weight_T[1:], hidden[1:], strict=True):
        total = total + weight * of_task
    return total


class CrossStitchLoop(nn.Module):
    """cross_stitch."""

    def __init__(self, config: HeadConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        self.stitches = nn.ModuleList()
        inputs = num_features

        for layers in config.levels:
            self.levels.append(nn.ModuleList(Perceptron(inputs, layers) for _ in range(num_tasks)))
            self.stitches.append(StitchLoop(num_tasks))
            inputs = layers[-1]

        self.towers = TowersLoop(config, num_tasks, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_tasks = [x] * len(self.towers)
        for level, stitch in zip(self.levels, self.stitches, strict=True):
            assert isinstance(level, nn.ModuleList)
            assert isinstance(stitch, StitchLoop)
            hidden = [network(one) for network, one in zip(level, of_tasks, strict=True)]
            of_tasks = [mixed(row, hidden) for row in stitch.weight]

        return self.towers(of_tasks)
