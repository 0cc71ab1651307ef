"""Learning to Branch (Guo, Lee and Ulbricht, ICML 2020): every node of a level chooses its parent, so a tree grows.

    y_j^l   = node j of level l, on x_j^l            (x_j⁰ = x)
    x_i^l+1 = Σ_j d_{ij} y_j^l                       d_i: the parent that i chooses, sampled (`related.choices`)
    i       = nodes of the next level; behind the last level the tasks, whose towers read x_t^L

In the warm-up parents are drawn alike, and nothing of them is learned. In evaluation each node has one parent, that of
its greatest score, so what the tasks read is a tree; nodes without a child are not part of it.

Nodes were blocks of convolutions. In the paper the tree that was found is trained once more from the start; here it is
evaluated as it is, after one pass over the log in which parents and weights are learned together.

Shapes: B rows, F features, T tasks, U children, E nodes of a level, H their width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from data.hashing import stable_seed
from models.heads.base import ExpertCount, FusionNames, Head, Shares
from models.heads.related.choices import Choices, SamplingConfig
from models.layers import GroupedMLP, Towers, mix


class LearningToBranchConfig(SamplingConfig):
    """Nodes on every level, each of which learns which node of the level below it reads."""

    head: Literal["learning_to_branch"] = "learning_to_branch"
    experts: ExpertCount = 4
    """Nodes on each level, of which tasks may share any."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head."""
        return LearningToBranch(self, num_features, len(tasks))


class LearningToBranch(Head):
    """The head."""

    of_all_tasks = frozenset({"branches"})

    def __init__(self, config: LearningToBranchConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList()
        branches = []
        alone = [1] * config.experts
        inputs = num_features
        for index, layers in enumerate(config.levels):
            is_last = index == len(config.levels) - 1
            self.levels.append(GroupedMLP(alone, inputs, layers, config.activation, config.dropout))
            branches.append(Branching(config, num_tasks if is_last else config.experts, layers[-1]))
            inputs = layers[-1]

        self.branches = nn.ModuleList(branches)
        self._branches = branches
        self.towers = Towers(num_tasks, inputs, config.tower, config.activation, config.dropout)

    def begin(self, samples: int, seed: int) -> None:
        """Draws the noise of every level; temperature and warm-up follow from `samples`."""
        temperature = self.config.temperature_at(samples)
        for index, branching in enumerate(self._branches):
            branching.parents.begin(stable_seed(seed, index), temperature)
            branching.is_learned.fill_(samples >= self.config.warmup_samples)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        x = features_BF
        for level, branching in zip(self.levels, self.branches, strict=True):
            x = branching(level(x))
        return self.towers(x)

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """The tree as in evaluation, level by level."""
        nodes = [f"node {node}" for node in range(self.config.experts)]
        return [*(FusionNames(nodes, nodes) for _ in self.branches[1:]), FusionNames(list(tasks), nodes)]


class Branching(nn.Module):
    """What the children of a level read. Kept for backward: the input, with its nodes in front of its rows."""

    is_learned: torch.Tensor
    """Whether the warm-up is over."""

    def __init__(self, config: LearningToBranchConfig, num_children: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.parents = Choices(config, num_children, config.experts)
        self.shares = Shares()
        self.register_buffer("is_learned", torch.ones((), dtype=torch.bool), persistent=False)

    @property
    def flops_per_row(self) -> int:
        """Of the product."""
        return 2 * self.parents.slow_scores.numel() * self.width

    def forward(self, x_BEH: torch.Tensor) -> torch.Tensor:
        """read_BUH."""
        parent_UE = self.parents()
        parent_UE = torch.where(self.is_learned, parent_UE, parent_UE.detach())
        self.shares(parent_UE.expand(x_BEH.shape[0], -1, -1))
        return mix(parent_UE, x_BEH)
