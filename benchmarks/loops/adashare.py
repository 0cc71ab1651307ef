"""adashare.

Shapes: B rows, T tasks, L blocks.
"""

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.related.adashare import AdaShareConfig


class BlockLoop(nn.Module):
    """A residual block."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        *hidden, width = layers
        self.inner = nn.ModuleList([Perceptron(width, hidden)])
        self.last = nn.ModuleList([nn.Linear(hidden[-1] if hidden else width, width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """y_BW."""
        return torch.relu(x + self.last[0](self.inner[0](x)))


class PolicyLoop(nn.Module):
    """The choices of all tasks: two scores each, to keep and to skip."""

    noise: torch.Tensor
    temperature: torch.Tensor

    def __init__(self, tasks: int, blocks: int, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.slow_scores = nn.Parameter(torch.zeros(tasks, blocks, 2))
        self.register_buffer("noise", torch.zeros(tasks, blocks, 2), persistent=False)
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def forward(self, task: int, block: int) -> torch.Tensor:
        """How far the task keeps the block."""
        keep, skip = 10 * self.slow_scores[task, block]
        if not self.training:
            return (keep >= skip).to(keep.dtype)
        keep_noise, skip_noise = self.noise[task, block]
        ahead = keep + keep_noise - skip - skip_noise
        soft = torch.sigmoid(ahead / self.temperature)
        return (ahead >= 0).to(soft.dtype) + soft - soft.detach() if self.hard else soft

    def probability(self, task: int, block: int) -> torch.Tensor:
        """α."""
        keep, skip = 10 * self.slow_scores[task, block]
        return torch.sigmoid(keep - skip)


class AdaShareLoop(nn.Module):
    """adashare: each task goes through the blocks by itself."""

    is_learned_L: torch.Tensor

    def __init__(self, config: AdaShareConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.config = config
        width = config.levels[0][-1]
        self.encoder = nn.ModuleList([Perceptron(num_features, [width])])
        self.blocks = nn.ModuleList(BlockLoop(layers) for layers in config.levels)
        self.policy = PolicyLoop(num_tasks, len(config.levels), config.sampling == "hard")
        self.towers = TowersLoop(config, num_tasks, width)
        self.register_buffer("is_learned_L", torch.ones(len(config.levels), dtype=torch.bool), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        encoded = self.encoder[0](x)
        of_tasks = []
        for task in range(len(self.towers)):
            x = encoded
            for index, block in enumerate(self.blocks):
                keep = self.policy(task, index)
                if self.training and not self.is_learned_L[index]:
                    keep = 1 + 0 * keep
                x = keep * block(x) + (1 - keep) * x
            of_tasks.append(x)
        return self.towers(of_tasks)

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Of blocks that are kept, and of pairs of tasks that keep different ones."""
        tasks, blocks = len(self.towers), len(self.blocks)
        sparsity, sharing = (torch.zeros((), dtype=logits_BT.dtype) for _ in range(2))
        for block in range(blocks):
            alphas = [self.policy.probability(task, block) for task in range(tasks)]
            for task, alpha in enumerate(alphas):
                sparsity = sparsity - torch.log(1 - alpha) * self.is_learned_L[block] / blocks
                for other in alphas[:task]:
                    sharing = sharing + (blocks - block) / blocks * torch.abs(alpha - other)
        weighted = {"sparsity": self.config.sparsity * sparsity, "sharing": self.config.sharing * sharing}
        return {name: penalty for name, penalty in weighted.items() if getattr(self.config, name)}
