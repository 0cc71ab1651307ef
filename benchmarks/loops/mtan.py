"""mtan.

Shapes: B rows, F features, T tasks.
"""

from typing import Any

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.related.mtan import MTANConfig


class MTANLoop(nn.Module):
    """mtan: a mask after another."""

    def __init__(self, config: MTANConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.trunk = nn.ModuleList()
        self.carry = nn.ModuleList()
        self.inner = nn.ModuleList()
        self.outer = nn.ModuleList()
        inputs = num_features
        for index, layers in enumerate(config.levels):
            first, last = layers[0], layers[-1]
            self.trunk.append(nn.ModuleList([Perceptron(inputs, layers)]))
            if index:
                self.carry.append(nn.ModuleList([nn.Linear(inputs, first)]))
            read = first if index == 0 else 2 * first
            self.inner.append(nn.ModuleList(Perceptron(read, [last]) for _ in range(num_tasks)))
            self.outer.append(nn.ModuleList(nn.Linear(last, last) for _ in range(num_tasks)))
            inputs = last
        self.towers = TowersLoop(config, num_tasks, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        p = x
        of_tasks: list[torch.Tensor] = []
        levels: Any = zip(self.trunk, self.inner, self.outer, strict=True)
        carries: Any = self.carry
        for index, ((trunk,), inners, outers) in enumerate(levels):
            first, *others = trunk
            u = p = torch.relu(first(p))
            for layer in others:
                p = torch.relu(layer(p))

            masked = []
            for task, (inner, outer) in enumerate(zip(inners, outers, strict=True)):
                read = u
                if index:
                    (carry,) = carries[index - 1]
                    read = torch.cat([u, torch.relu(carry(of_tasks[task]))], dim=1)
                masked.append(torch.sigmoid(outer(inner(read))) * p)
            of_tasks = masked
        return self.towers(of_tasks)
