"""Levels of experts that gates fuse: what AdaTT, PLE and MMoE share.

    E_e   = expert e, on the input of its unit
    G_u   = softmax of gate u over the experts that it sees; 0 for the others
    f_u'  = Σ_e (G_{u,e} + V_{u,e}) E_e          one batched product; V: native weights (AdaTT), or nothing

Shapes: B rows, F features, U outputs that a level fuses, E experts of the level, N (gate, expert) pairs, H expert
width, I input width, T tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import nn

from models.heads.base import FusionNames, Head, HeadConfig, in_parts
from models.layers import GroupedLinear, GroupedMLP, Towers, fuse

Native = Literal["none", "ones", "learned"]


@dataclass(frozen=True)
class LevelPlan:
    """The experts of a level, and who fuses which."""

    experts_per_unit: list[int]
    """Units are the level's inputs; experts are numbered through, those of unit 0 first."""
    sees: list[list[int]]
    """For every fused output the experts that its gate weighs."""
    native: Native = "none"
    """Weights that output u adds on the experts of unit u, whatever the input: none, 1, or learned ones."""

    @property
    def first_experts(self) -> list[int]:
        """Number of the first expert of each unit."""
        return list(accumulate(self.experts_per_unit, initial=0))[:-1]

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
        first = self.first_experts[unit]
        return list(range(first, first + self.experts_per_unit[unit]))


class FusionLevel(nn.Module):
    """One level. Kept for backward: its input, what the experts' layers keep, expert_BEH and weights_BUE."""

    gate_place: torch.Tensor | None
    native_place: torch.Tensor | None

    def __init__(
        self, plan: LevelPlan, inputs: int, gate_inputs: int, layers: Sequence[int], config: HeadConfig
    ) -> None:
        super().__init__()
        self.plan, self.num_fused, self.width = plan, plan.num_fused, layers[-1]
        self.experts = GroupedMLP(plan.experts_per_unit, inputs, layers, config.activation, config.dropout)
        self.gates = GroupedLinear([len(seen) for seen in plan.sees], gate_inputs, 1)
        everything = list(range(plan.num_experts))
        self._register_places("gate", [] if all(seen == everything for seen in plan.sees) else plan.sees)
        own = [] if plan.native == "none" else [plan.experts_of(unit) for unit in range(self.num_fused)]
        self._register_places("native", own)
        self.native = nn.Parameter(torch.empty(sum(map(len, own)))) if plan.native == "learned" else None
        self.reset_parameters()

    def _register_places(self, name: str, experts: list[list[int]]) -> None:
        """Where (output, expert) pairs lie in a flat [U · E]."""
        places = [unit * self.plan.num_experts + expert for unit, own in enumerate(experts) for expert in own]
        self.register_buffer(f"{name}_place", torch.tensor(places) if places else None, persistent=False)

    @property
    def flops_per_row(self) -> int:
        """Of fusion; experts and gates count their own."""
        return 2 * self.num_fused * self.plan.num_experts * self.width

    def reset_parameters(self) -> None:
        """Draws the native weights v, uniform in ±sqrt(1/experts of the unit)."""
        if self.native is None:
            return
        counts = self.plan.experts_per_unit[: self.num_fused]
        bounds = [1 / math.sqrt(count) for count in counts for _ in range(count)]
        with torch.no_grad():
            self.native.uniform_(-1, 1).mul_(torch.tensor(bounds, device=self.native.device))

    def forward(self, x: torch.Tensor, gate_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(fused_BUH, weights_BUE) of the experts' input x_BUI and the gates' input; x_BI where it is common."""
        weights_BUE = self.gate(gate_x)
        native_UE = self.native_weights(weights_BUE)
        if native_UE is not None:
            weights_BUE = weights_BUE + native_UE
        return fuse(weights_BUE, self.experts(x)), weights_BUE

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """gate_BUE: each output's softmax over the experts that it sees."""
        scores_BN = self.gates(x if x.dim() == 2 else x[:, : self.num_fused]).squeeze(2)
        if self.gate_place is not None:
            nothing = scores_BN.new_full((len(x), self.num_fused * self.plan.num_experts), -math.inf)
            scores_BN = nothing.index_copy(1, self.gate_place, scores_BN)
        return scores_BN.view(len(x), self.num_fused, self.plan.num_experts).softmax(dim=2)

    def native_weights(self, like: torch.Tensor) -> torch.Tensor | None:
        """native_UE: the native weights where unit u owns expert e, else 0; None where there are none."""
        if self.native_place is None:
            return None
        values = like.new_ones(len(self.native_place)) if self.native is None else self.native
        nothing = values.new_zeros(self.num_fused * self.plan.num_experts)
        return nothing.index_copy(0, self.native_place, values).view(self.num_fused, self.plan.num_experts)


class GatedHead(Head):
    """Levels of fusion, then a tower for each task.

    `gates_read`: "unit" is the input of the gate's own unit, "features" what the head reads.
    """

    def __init__(
        self,
        config: HeadConfig,
        num_features: int,
        num_tasks: int,
        plans: list[tuple[LevelPlan, Sequence[int]]],
        gates_read: Literal["unit", "features"],
    ) -> None:
        super().__init__()
        self._gates_read_features = gates_read == "features"
        self._plans = [plan for plan, _ in plans]
        self.levels = nn.ModuleList()
        inputs = num_features

        for plan, layers in plans:
            gate_inputs = num_features if self._gates_read_features else inputs
            self.levels.append(FusionLevel(plan, inputs, gate_inputs, layers, config))
            inputs = layers[-1]

        self.towers = Towers(num_tasks, inputs, config.tower, config.activation, config.dropout)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        return self.towers(self._fuse(features_BF)[0])

    def fusion_weights(self, features_BF: torch.Tensor) -> list[torch.Tensor]:
        """For each level weights_BUE: gate plus native part. The outputs are the tasks, then the shared unit's or,
        below the last level of ml_mmoe, the next level's experts."""
        parts = [self._fuse(rows_RF)[1] for rows_RF in in_parts(features_BF)]
        return [torch.cat(of_level) for of_level in zip(*parts, strict=True)]

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """Names for `fusion_weights`, level by level; ValueError where the tasks are not as many as the head's."""
        if len(tasks) != self._plans[-1].num_fused:
            raise ValueError(f"{list(tasks)} are {len(tasks)} names; the head has {self._plans[-1].num_fused} tasks")
        if not self._gates_read_features:
            return [_names_by_unit(plan, tasks) for plan in self._plans]
        experts = [f"expert {expert}" for expert in range(self._plans[0].num_experts)]
        return [*(FusionNames(experts, experts) for _ in self._plans[1:]), FusionNames(list(tasks), experts)]

    def _fuse(self, features_BF: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(fused_BTH, weights_BUE of each level): the weights are at hand, whether they are asked for or not."""
        fused, weights = features_BF, []
        for level in self.levels:
            fused, weights_BUE = level(fused, features_BF if self._gates_read_features else fused)
            weights.append(weights_BUE)
        return fused, weights


def _names_by_unit(plan: LevelPlan, tasks: Sequence[str]) -> FusionNames:
    """Experts are called by their unit and their number in it."""
    units = [*tasks, "shared" if "shared" not in tasks else "(shared)"]  # no task is called so: names have no brackets
    experts = [f"{units[unit]} {expert}" for unit, count in enumerate(plan.experts_per_unit) for expert in range(count)]
    return FusionNames(units[: len(plan.sees)], experts)
