"""AITM, adaptive information transfer (Xi et al., KDD 2021): a chain of tasks, each of which passes on what it knows.

    q_t  = network of task t, on x
    z_1  = q_1
    p_t  = g_t(z_t)                                             what task t passes on
    z_t  = Σ_u w_u h3_t(u)    over u = p_{t-1}, q_t             w = softmax of ⟨h1_t(u), h2_t(u)⟩ / √H over both
    logit of t = tower of z_t;  z_t = q_t where t is not in the chain

    penalty  constraint · mean_rows Σ max(p(t) - p(t - 1), 0)   a step of the chain presupposes the one before

g and h are linear. The constraint (0.6 in the paper) is on predicted probabilities, so the chain is of binary tasks.

Shapes: B rows, F features, T tasks, C tasks of the chain, H width of the networks.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from models.heads.base import FusionNames, Head, HeadConfig, Shares
from models.layers import GroupedLinear, GroupedMLP, Towers, fuse


class AITMConfig(HeadConfig):
    """A network for each task, and a chain along which tasks pass on what they know."""

    head: Literal["aitm"] = "aitm"
    chain: tuple[str, ...] = ()
    """Binary tasks, from the one that happens first: ["click", "like"]; [] is all tasks in their order."""
    constraint: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.6
    """Weight of the penalty where a task is held for likelier than the one before it; 0: none."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head; raises ValueError for a chain of other tasks, or of one twice."""
        for name in self.chain:
            if name not in tasks:
                raise ValueError(f"model.chain names {name!r}; the tasks with a logit are {', '.join(tasks)}")
        if len(set(self.chain)) < len(self.chain):
            raise ValueError(f"model.chain = {list(self.chain)} names a task twice")
        return AITM(self, num_features, tasks)

    def in_chain(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """The chain among these tasks."""
        return self.chain or tuple(tasks)


class AITM(Head):
    """The head."""

    of_task = frozenset({"towers", "networks"})
    of_all_tasks = frozenset({"passes", "attends"})

    def __init__(self, config: AITMConfig, num_features: int, tasks: Sequence[str]) -> None:
        super().__init__()
        layers = config.end_to_end
        width = layers[-1]
        self.constraint = config.constraint
        self.chain = [list(tasks).index(name) for name in config.in_chain(tasks)]
        """Numbers of the tasks."""
        self.networks = GroupedMLP([1] * len(tasks), num_features, layers, config.activation, config.dropout)
        steps = self.chain[1:]
        self.passes = nn.ModuleList(GroupedLinear([1], width, width) for _ in steps)
        self.attends = nn.ModuleList(Attention(width) for _ in steps)
        self.shares = Shares() if steps else None
        self.towers = Towers(len(tasks), width, config.tower, config.activation, config.dropout)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_tasks = list(self.networks(features_BF).unbind(dim=1))
        weights = []
        for step, (before, task) in enumerate(zip(self.chain, self.chain[1:], strict=False)):
            passed_BH = self.passes[step](of_tasks[before]).squeeze(1)
            of_tasks[task], weights_B12 = self.attends[step](torch.stack([passed_BH, of_tasks[task]], dim=1))
            weights.append(weights_B12)
        if self.shares is not None:
            self.shares(torch.cat(weights, dim=1))
        return self.towers(torch.stack(of_tasks, dim=1))

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:
        """`constraint`."""
        if self.constraint == 0 or len(self.chain) == 1:
            return {}
        probability_BC = logits_BT[:, self.chain].sigmoid()
        too_high_B = (probability_BC[:, 1:] - probability_BC[:, :-1]).relu().sum(dim=1)
        return {"constraint": self.constraint * (too_high_B * (weights_B > 0)).mean()}

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """How much each task of the chain takes from the one before, and of its own."""
        units = [tasks[task] for task in self.chain[1:]]
        return [FusionNames(units, ["task before", "own network"])] if units else []


class Attention(GroupedLinear):
    """h1, h2 and h3 on what was passed on and what is the task's own; and their sum by weights."""

    def __init__(self, width: int) -> None:
        super().__init__([3], width, width)

    @property
    def flops_per_row(self) -> int:
        """Of the layers, for both inputs, and of the sum."""
        return 2 * super().flops_per_row + 2 * 2 * self.outputs

    def forward(self, u_B2H: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """(z_BH, weights_B12)."""
        h1, h2, h3 = super().forward(u_B2H.flatten(0, 1)).view(*u_B2H.shape[:2], 3, self.outputs).unbind(dim=2)
        weights_B12 = ((h1 * h2).sum(dim=2) / math.sqrt(self.outputs)).softmax(dim=1).unsqueeze(1)
        return fuse(weights_B12, h3).squeeze(1), weights_B12
