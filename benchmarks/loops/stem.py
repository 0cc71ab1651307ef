"""stem.

Shapes: B rows, F columns, T tasks.
"""

from typing import Any

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop, weighted_sum
from models.heads.base import experts_per_task
from models.heads.related.stem import STEMConfig


class STEMLoop(nn.Module):
    """stem: task after task; columns that cannot be divided among tasks and what they share are dense."""

    def __init__(self, config: STEMConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.width = num_features // (num_tasks + 1)
        inputs = self.width + num_features % (num_tasks + 1)
        counts = [*experts_per_task(config.task_experts, num_tasks), config.shared_experts]
        self.units = [unit for unit, count in enumerate(counts) for _ in range(count)]
        level = nn.ModuleDict(
            {
                "experts": nn.ModuleList(Perceptron(inputs, config.end_to_end) for _ in self.units),
                "gates": nn.ModuleList(nn.Linear(inputs, len(self.units)) for _ in range(num_tasks)),
            }
        )
        self.levels = nn.ModuleList([level])
        self.towers = TowersLoop(config, num_tasks, config.end_to_end[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        (level,) = self.levels
        parts: Any = level
        shared = len(self.towers)
        dense = x[:, (shared + 1) * self.width :]
        embeddings = [x[:, unit * self.width : (unit + 1) * self.width] for unit in range(shared + 1)]
        experts = [
            expert(torch.cat([embeddings[unit], dense], dim=1))
            for expert, unit in zip(parts["experts"], self.units, strict=True)
        ]

        of_tasks = []
        for task, gate in enumerate(parts["gates"]):
            weights = torch.softmax(gate(torch.cat([embeddings[task] + embeddings[shared], dense], dim=1)), dim=1)
            seen = [
                expert if unit in (task, shared) else expert.detach()
                for expert, unit in zip(experts, self.units, strict=True)
            ]
            of_tasks.append(weighted_sum(weights, seen))
        return self.towers(of_tasks)
