"""AdaTT: adaptive task-to-task fusion (Li et al., KDD 2023), with shared experts (`adatt`) and without (`adatt_sp`).

A level holds units: one per task, and for `adatt` one more for the shared experts. With f⁰ = x for every unit:

    E_e  = expert e of its unit u, on f_u                              (experts of all units)
    G_u  = softmax(U_u f_u + c_u)                 weights over the experts of all units   (paper, section 3.1)
    N_u  = Σ_{e of u} v_e E_e                     native linear fusion, weights v learned, independent of the input
    f_u' = Σ_e G_{u,e} E_e + N_u = (G_u + pad(v_u))ᵀ E                 one product per row of the batch

The last level has no fused output for the shared unit: it only contributes its experts. Where every unit has exactly
one expert, native experts have unit weight. Task t's tower reads f_t of the last level.

Shapes: B rows, F features, U units that fuse, E experts of the level, H expert width, I input width, T tasks.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from models.heads.base import Head, HeadConfig, PositiveInts
from models.heads.layers import GroupedLinear, GroupedMLP, Towers

Experts = Annotated[int, Field(gt=0, le=1024)]


class AdaTTSpConfig(HeadConfig):
    """AdaTT with task-specific experts only."""

    head: Literal["adatt_sp"] = "adatt_sp"
    levels: tuple[PositiveInts, ...] = Field(default=((256,), (128,)), min_length=1)
    """Hidden units of the experts, per fusion level: [[256], [128]] is two levels of single-layer experts."""
    task_experts: Experts | Annotated[tuple[Experts, ...], Field(min_length=1)] = 1
    """Experts of each task per level; one number, or one per task."""

    def build(self, num_features: int, num_tasks: int) -> Head:
        """The head; ValueError where the numbers do not fit together."""
        return AdaTT(self, num_features, self.units(num_tasks), num_tasks)

    def units(self, num_tasks: int) -> list[int]:
        """Experts of every unit."""
        counts = [self.task_experts] * num_tasks if isinstance(self.task_experts, int) else list(self.task_experts)
        if len(counts) != num_tasks:
            raise ValueError(f"task_experts = {counts} must be one number, or one for each of {num_tasks} tasks")
        return counts


class AdaTTConfig(AdaTTSpConfig):
    """AdaTT with shared experts."""

    head: Literal["adatt"] = "adatt"  # type: ignore[assignment]
    shared_experts: int = Field(default=1, ge=0, le=1024)
    """Experts of the shared unit per level; 0 is exactly `adatt_sp`."""

    def units(self, num_tasks: int) -> list[int]:
        """Experts of every unit, the shared one last."""
        shared = [self.shared_experts] if self.shared_experts else []
        return super().units(num_tasks) + shared


class AdaTT(Head):
    """The head of either form."""

    def __init__(self, config: AdaTTSpConfig, num_features: int, experts_per_unit: list[int], num_tasks: int) -> None:
        super().__init__()
        levels = []
        inputs = num_features
        for index, layers in enumerate(config.levels):
            last = index == len(config.levels) - 1
            fusing = num_tasks if last else len(experts_per_unit)
            levels.append(FusionLevel(experts_per_unit, fusing, inputs, layers, config.dropout, first=index == 0))
            inputs = layers[-1]
        self.levels = nn.ModuleList(levels)
        self.towers = Towers(num_tasks, inputs, config.tower, config.dropout, common_input=False)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        fused = features_BF
        for level in self.levels:
            fused = level(fused)
        return self.towers(fused)


class FusionLevel(nn.Module):
    """One level of fusion: every expert and gate of it in as few products as there are distinct expert counts."""

    native_place: torch.Tensor

    def __init__(
        self,
        experts_per_unit: list[int],
        fusing: int,
        inputs: int,
        layers: tuple[int, ...],
        dropout: float,
        *,
        first: bool,
    ) -> None:
        super().__init__()
        counts = sorted(set(experts_per_unit), key=experts_per_unit.index)
        self.unit_groups = [[unit for unit, has in enumerate(experts_per_unit) if has == count] for count in counts]
        self.first, self.fusing, self.width = first, fusing, layers[-1]
        self.unit_of_expert = [
            unit for count, group in zip(counts, self.unit_groups, strict=True) for unit in group for _ in range(count)
        ]
        """Experts in the order of their columns: units with equal expert counts lie together."""
        self.experts_per_unit = experts_per_unit
        self.input_units = [
            [unit for unit in group for _ in range(count)]
            for count, group in zip(counts, self.unit_groups, strict=True)
        ]
        self.num_experts = len(self.unit_of_expert)
        if first:
            self.experts = nn.ModuleList([GroupedMLP(self.num_experts, inputs, layers, dropout, common_input=True)])
        else:
            self.experts = nn.ModuleList(
                GroupedMLP(count * len(group), inputs, layers, dropout, common_input=False)
                for count, group in zip(counts, self.unit_groups, strict=True)
            )
        self.gate = GroupedLinear(fusing, inputs, self.num_experts, common_input=first)
        native = [expert for expert, unit in enumerate(self.unit_of_expert) if unit < fusing]
        place = torch.tensor([self.unit_of_expert[expert] * self.num_experts + expert for expert in native])
        self.register_buffer("native_place", place, persistent=False)
        self.native = None if max(experts_per_unit) == 1 else nn.Parameter(torch.empty(len(native)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the native weights v, uniform in ±sqrt(1/experts of the unit)."""
        if self.native is None:
            return
        bounds = [1 / math.sqrt(self.experts_per_unit[unit]) for unit in self.unit_of_expert if unit < self.fusing]
        with torch.no_grad():
            self.native.uniform_(-1, 1).mul_(torch.tensor(bounds, device=self.native.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_BI on the first level, x_UBI after it → fused_UBH."""
        expert_BEH = self._experts(x)
        weights_BUE = self.weights(x)
        return torch.bmm(weights_BUE, expert_BEH).transpose(0, 1)

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """Fusion weights of a batch, gate plus native part: weights_BUE."""
        gate_input = x if self.first else x[: self.fusing]
        gate_BUE = self.gate(gate_input).softmax(dim=2).transpose(0, 1)
        return gate_BUE + self._native(gate_BUE)

    def _native(self, like: torch.Tensor) -> torch.Tensor:
        """native_UE: the native weights where unit u owns expert e, else 0."""
        flat = like.new_zeros(self.fusing * self.num_experts)
        values = like.new_ones(len(self.native_place)) if self.native is None else self.native.to(like.dtype)
        return flat.scatter(0, self.native_place, values).view(self.fusing, self.num_experts)

    def _experts(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            return self.experts[0](x).transpose(0, 1)
        outputs = [experts(x[units]) for units, experts in zip(self.input_units, self.experts, strict=True)]
        return torch.cat(outputs).transpose(0, 1)
