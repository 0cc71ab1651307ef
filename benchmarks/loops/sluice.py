"""sluice.

Shapes: B rows, F features, T tasks, L levels.
"""

import torch
from torch import nn

from benchmarks.loops.networks import StitchLoop, mixed
from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.related.sluice import SluiceConfig


class LevelWeights(nn.Module):
    """Of each level for each task."""

    def __init__(self, num_tasks: int, num_levels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_tasks, num_levels))


class SluiceLoop(nn.Module):
    """sluice: halves mixed one after another."""

    def __init__(self, config: SluiceConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.orthogonality = config.orthogonality
        self.levels = nn.ModuleList()
        self.stitches = nn.ModuleList()
        inputs = num_features
        for layers in config.levels:
            self.levels.append(nn.ModuleList(Perceptron(inputs, layers) for _ in range(num_tasks)))
            self.stitches.append(StitchLoop(2 * num_tasks))
            inputs = layers[-1]
        self.mixture = LevelWeights(num_tasks, len(config.levels))
        self.towers = TowersLoop(config, num_tasks, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_tasks = [x] * len(self.towers)
        of_levels = []
        for level, stitch in zip(self.levels, self.stitches, strict=True):
            assert isinstance(level, nn.ModuleList)
            assert isinstance(stitch, StitchLoop)
            halves: list[torch.Tensor] = []
            for network, one in zip(level, of_tasks, strict=True):
                halves += network(one).chunk(2, dim=1)
            halves = [mixed(row, halves) for row in stitch.weight]
            of_tasks = [torch.cat(pair, dim=1) for pair in zip(halves[::2], halves[1::2], strict=True)]
            of_levels.append(of_tasks)

        outputs = []
        for task, weight_L in enumerate(self.mixture.weight):
            outputs.append(mixed(weight_L, [of_level[task] for of_level in of_levels]))
        return self.towers(outputs)

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Squares of all products of rows of the two halves."""
        total = torch.zeros((), dtype=logits_BT.dtype)
        for level in self.levels:
            assert isinstance(level, nn.ModuleList)
            for network in level:
                assert isinstance(network, Perceptron)
                weight = network[-1].weight
                assert isinstance(weight, torch.Tensor)
                half = len(weight) // 2
                for first in weight[:half]:
                    for second in weight[half:]:
                        total = total + torch.dot(first, second) ** 2
        return {"orthogonality": self.orthogonality * total}
