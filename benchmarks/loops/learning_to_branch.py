"""learning_to_branch.

Shapes: B rows, U children, E nodes of a level, T tasks.
"""

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.related.learning_to_branch import LearningToBranchConfig


class ParentsLoop(nn.Module):
    """The scores of all parents for each child."""

    noise: torch.Tensor
    temperature: torch.Tensor

    def __init__(self, children: int, nodes: int, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.slow_scores = nn.Parameter(torch.zeros(children, nodes))
        self.register_buffer("noise", torch.zeros(children, nodes), persistent=False)
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def forward(self, child: int) -> list[torch.Tensor]:
        """How much the child takes of each node."""
        scores = list(10 * self.slow_scores[child])
        if self.training:
            scores = [score + noise for score, noise in zip(scores, self.noise[child], strict=True)]
        greatest = max(range(len(scores)), key=lambda node: scores[node].item())
        hard = [torch.full_like(score, float(node == greatest)) for node, score in enumerate(scores)]
        if not self.training:
            return hard

        powers = [torch.exp(score / self.temperature) for score in scores]
        soft = [power / sum(powers) for power in powers]
        if not self.hard:
            return soft
        return [one + share - share.detach() for one, share in zip(hard, soft, strict=True)]


class BranchingLoop(nn.Module):
    """What the children of a level read."""

    is_learned: torch.Tensor

    def __init__(self, children: int, nodes: int, hard: bool) -> None:
        super().__init__()
        self.parents = ParentsLoop(children, nodes, hard)
        self.register_buffer("is_learned", torch.ones((), dtype=torch.bool), persistent=False)

    def forward(self, nodes: list[torch.Tensor]) -> list[torch.Tensor]:
        """read_BH of each child."""
        read = []
        for child in range(len(self.parents.slow_scores)):
            shares = self.parents(child)
            if not self.is_learned:
                shares = [share.detach() + 0 * share for share in shares]
            read.append(sum(share * node for share, node in zip(shares, nodes, strict=True)))
        return read


class LearningToBranchLoop(nn.Module):
    """learning_to_branch: one child after another."""

    def __init__(self, config: LearningToBranchConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        self.branches = nn.ModuleList()
        inputs = num_features
        for index, layers in enumerate(config.levels):
            children = num_tasks if index + 1 == len(config.levels) else config.experts
            self.levels.append(nn.ModuleList(Perceptron(inputs, layers) for _ in range(config.experts)))
            self.branches.append(BranchingLoop(children, config.experts, config.sampling == "hard"))
            inputs = layers[-1]
        self.towers = TowersLoop(config, num_tasks, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_nodes: list[torch.Tensor] = []
        for level, branching in zip(self.levels, self.branches, strict=True):
            assert isinstance(level, nn.ModuleList)
            of_nodes = of_nodes or [x] * len(level)
            of_nodes = branching([node(one) for node, one in zip(level, of_nodes, strict=True)])
        return self.towers(of_nodes)
