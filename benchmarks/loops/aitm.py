"""aitm.

Shapes: B rows, F features, T tasks, H width of the networks.
"""

import math

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.related.aitm import AITMConfig


class AITMLoop(nn.Module):
    """aitm: from task to task; the chain is all tasks."""

    def __init__(self, config: AITMConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        width = config.end_to_end[-1]
        self.constraint = config.constraint
        # Loops know tasks by number: "task 2" is the third.
        self.chain = [int(name.removeprefix("task ")) for name in config.chain] or list(range(num_tasks))
        self.networks = nn.ModuleList(Perceptron(num_features, config.end_to_end) for _ in range(num_tasks))
        steps = range(len(self.chain) - 1)
        self.passes = nn.ModuleList(nn.ModuleList([nn.Linear(width, width)]) for _ in steps)
        self.attends = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(3)) for _ in steps)
        self.towers = TowersLoop(config, num_tasks, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_tasks = [network(x) for network in self.networks]
        steps = zip(self.chain, self.chain[1:], self.passes, self.attends, strict=False)
        for before, task, passing, attend in steps:
            assert isinstance(passing, nn.ModuleList)
            assert isinstance(attend, nn.ModuleList)
            h1, h2, h3 = attend
            inputs = [passing[0](of_tasks[before]), of_tasks[task]]
            scores = [(h1(u) * h2(u)).sum(dim=1) / math.sqrt(u.shape[1]) for u in inputs]
            exponentials = [score.exp() for score in scores]
            total = torch.zeros_like(inputs[0])
            for u, exponential in zip(inputs, exponentials, strict=True):
                total = total + (exponential / (exponentials[0] + exponentials[1]))[:, None] * h3(u)
            of_tasks[task] = total
        return self.towers(of_tasks)

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:
        """Row by row, task by task."""
        total = torch.zeros((), dtype=logits_BT.dtype)
        for row, weight in enumerate(weights_B):
            for before, task in zip(self.chain, self.chain[1:], strict=False):
                if weight > 0:
                    difference = torch.sigmoid(logits_BT[row, task]) - torch.sigmoid(logits_BT[row, before])
                    total = total + torch.clamp(difference, min=0)
        return {"constraint": self.constraint * total / len(weights_B)} if len(self.chain) > 1 else {}
