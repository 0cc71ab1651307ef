"""Levels of experts that gates fuse: what MMoE, PLE and AdaTT share.

    E_e   = expert e, on the input of its unit
    G_u   = softmax of gate u over the experts that it sees; 0 for the others
    f_u'  = Σ_e G_{u,e} E_e                              one batched product for all u

Shapes: B rows, F features, U outputs that a level fuses, E experts of the level, N (gate, expert) pairs, H expert
width, I input width, T tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import nn

from models.heads.base import FusionNames, Head, HeadConfig, Sharing
from models.layers import GroupedLinear, GroupedMLP, Towers, fuse


@dataclass(frozen=True)
class LevelPlan:
    """The experts of a level, and which of them each fused output sees."""

    experts_per_unit: list[int]
    """Units are the level's inputs; experts are numbered through, those of unit 0 first."""
    sees: list[list[int]]
    """For every fused output the experts that its gate weighs."""

    @property
    def num_fused(self) -> int:
        """U."""
        return len(self.sees)

    @property
    def num_experts(self) -> int:
        """E."""
        return sum(self.experts_per_unit)

    def experts_of(self, unit: int) -> list[int]:
        """Numbers of a unit's experts."""
        begins = list(accumulate(self.experts_per_unit, initial=0))
        return list(range(begins[unit], begins[unit + 1]))


class LevelWidths(NamedTuple):
    """Of one level."""

    inputs: int
    """I, which the experts read."""
    gate_inputs: int
    """What the gates read: I, or F where they read the head's own input."""
    layers: Sequence[int]
    """Of each expert; the last is H."""


class FusionLevel(Sharing):
    """One level. Kept for backward: its input, what the experts' layers keep, expert_BEH and weights_BUE."""

    gate_place: torch.Tensor | None
    """Where the N scores lie in a flat [U · E]; None if every gate sees every expert."""

    def __init__(self, plan: LevelPlan, widths: LevelWidths, config: HeadConfig) -> None:
        super().__init__()
        self.plan = plan
        self.num_fused = plan.num_fused
        self.width = widths.layers[-1]
        self.experts = GroupedMLP(
            plan.experts_per_unit, widths.inputs, widths.layers, config.activation, config.dropout
        )
        seen_by_gates = [len(seen) for seen in plan.sees]
        self.gates = GroupedLinear(seen_by_gates, widths.gate_inputs, 1)

        all_experts = list(range(plan.num_experts))
        sees_all = all(seen == all_experts for seen in plan.sees)
        self.register_buffer("gate_place", None if sees_all else self.places(plan.sees), persistent=False)

    def places(self, experts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Where the pairs of output u and each of `experts[u]` lie in a flat [U · E]."""
        places: list[int] = []
        for output, of_output in enumerate(experts):
            places += [output * self.plan.num_experts + expert for expert in of_output]
        return torch.tensor(places)

    @property
    def flops_per_row(self) -> int:
        """Of fusion; experts and gates count their own."""
        return 2 * self.num_fused * self.plan.num_experts * self.width

    def forward(self, x: torch.Tensor, gate_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(fused_BUH, weights_BUE) of the experts' input x_BUI and the gates' input; x_BI where it is common."""
        gate_BUE = self.gate(gate_x)
        expert_BEH = self.experts(x)
        return fuse(gate_BUE, expert_BEH), gate_BUE

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """gate_BUE: each output's softmax over the experts that it sees."""
        num_rows = x.shape[0]
        num_experts = self.plan.num_experts
        own_input = x if x.dim() == 2 else x[:, : self.num_fused]
        scores_BN = self.gates(own_input).squeeze(2)

        if self.gate_place is not None:
            # An expert that a gate does not see has the score -∞, so that softmax gives it exactly 0.
            unseen_BN = scores_BN.new_full((num_rows, self.num_fused * num_experts), -math.inf)
            scores_BN = unseen_BN.index_copy(1, self.gate_place, scores_BN)

        return scores_BN.view(num_rows, self.num_fused, num_experts).softmax(dim=2)

    def weights_of(self, outputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """weights_BUE: gate plus native part."""
        return outputs[1]


class GatedHead(Head):
    """Levels of fusion, then a tower for each task."""

    def __init__(self, levels: Sequence[FusionLevel], towers: Towers, gates_read: Literal["unit", "features"]) -> None:
        """`gates_read`: "unit" is the input of the gate's own unit, "features" what the head reads."""
        super().__init__()
        self._gates_read_features = gates_read == "features"
        self._plans = [level.plan for level in levels]
        self.levels = nn.ModuleList(levels)
        self.towers = towers

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        fused = features_BF
        for level in self.levels:
            fused, _ = level(fused, features_BF if self._gates_read_features else fused)
        return self.towers(fused)

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """Names for `fusion_weights`, level by level; raises ValueError if the head has another number of tasks.

        The units are the tasks, then the shared one or, below the last level of ml_mmoe, the next level's experts.
        """
        num_tasks = self._plans[-1].num_fused
        if len(tasks) != num_tasks:
            raise ValueError(f"{list(tasks)} are {len(tasks)} names; the head has {num_tasks} tasks")
        if not self._gates_read_features:
            return [_names_by_unit(plan, tasks) for plan in self._plans]

        experts = [f"expert {expert}" for expert in range(self._plans[0].num_experts)]
        lower_levels = [FusionNames(experts, experts) for _ in self._plans[1:]]
        return [*lower_levels, FusionNames(list(tasks), experts)]


def towers_above(levels: Sequence[FusionLevel], num_tasks: int, config: HeadConfig) -> Towers:
    """A tower for each task on what the last level fuses."""
    return Towers(num_tasks, levels[-1].width, config.tower, config.activation, config.dropout)


def _names_by_unit(plan: LevelPlan, tasks: Sequence[str]) -> FusionNames:
    """Experts are called by their unit and their number in it."""
    shared = "shared" if "shared" not in tasks else "(shared)"  # no task is called so: names have no brackets
    units = [*tasks, shared]

    experts: list[str] = []
    for unit, count in zip(units, plan.experts_per_unit, strict=False):
        experts += [f"{unit} {expert}" for expert in range(count)]

    return FusionNames(units[: plan.num_fused], experts)
