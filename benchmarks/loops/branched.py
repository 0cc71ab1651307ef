"""branched.

Shapes: B rows, F features, T tasks.
"""

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.related.branched import BranchedConfig


class BranchedLoop(nn.Module):
    """branched: group by group, each looks for the group that holds it."""

    def __init__(self, config: BranchedConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        # Loops know tasks by number: "task 2" is the third.
        named = [[{int(name.removeprefix("task ")) for name in group} for group in level] for level in config.tree]
        tree = named or [[set(range(num_tasks))] for _ in config.levels]
        self.groups: list[list[set[int]]] = []
        self.levels = nn.ModuleList()
        inputs = num_features
        for groups, layers in zip(tree, config.levels, strict=True):
            self.groups.append(sorted(groups, key=lambda group: [*self._path(min(group)), min(group)]))
            self.levels.append(nn.ModuleList(Perceptron(inputs, layers) for _ in groups))
            inputs = layers[-1]
        self.towers = TowersLoop(config, num_tasks, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_tasks = [x for _ in self.towers]
        for groups, level in zip(self.groups, self.levels, strict=True):
            assert isinstance(level, nn.ModuleList)
            for group, network in zip(groups, level, strict=True):
                shared = network(of_tasks[min(group)])
                for task in group:
                    of_tasks[task] = shared
        return self.towers(of_tasks)

    def _path(self, task: int) -> list[int]:
        """Numbers of the task's groups so far."""
        return [number for groups in self.groups for number, group in enumerate(groups) if task in group]
