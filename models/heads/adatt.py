"""AdaTT, adaptive task-to-task fusion (Li et al., KDD 2023, section 3), without and with shared experts.

Every task t is a unit with experts of its own; AdaTT has one more unit, which holds the shared experts. With f⁰ = x for
all units, on every level:

    E_{u,i} = expert i of unit u, on f_u                              one perceptron each
    A_u     = Σ_e G_{u,e} E_e,  G_u = softmax(U_u f_u + c_u)          adaptive fusion, over the experts of all units
    N_u     = Σ_i v_{u,i} E_{u,i}                                     native linear fusion: v is learned, and does not
                                                                      depend on the input
    f_u'    = A_u + N_u = (G_u + pad(v_u))ᵀ E                         the paper's efficient form, used here

Task t's tower reads f_t of the last level. If every unit, the shared one too, has exactly one expert, N_u = E_u: the
native weights are 1 and not learned. The shared unit fuses like a task, but not on the last level, where nothing would
read what it fuses: there it only contributes its experts.

AdaTT-sp (section 3.1) is the same with task units alone.

Shapes: B rows, U units that fuse, E experts of all units, H expert width, I input width.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from models.heads.base import Head, HeadConfig, TaskExperts, experts_per_task
from models.heads.gated import FusionLevel, GatedHead, LevelPlan, LevelWidths, towers_above
from models.layers import fuse


class AdaTTSpConfig(HeadConfig):
    """AdaTT with task-specific experts only."""

    head: Literal["adatt_sp"] = "adatt_sp"
    task_experts: TaskExperts = 1
    """Experts of each task per level; one number, or one per task."""
    native_fusion: bool = True
    """false: without the residual N_t, as in the ablation of the paper's Table 6."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head; raises ValueError if the numbers do not fit together."""
        return build_adatt(self, num_features, len(tasks), shared_experts=0)


class AdaTTConfig(HeadConfig):
    """AdaTT with shared experts."""

    head: Literal["adatt"] = "adatt"
    task_experts: TaskExperts = 1
    """Experts of each task per level; one number, or one per task."""
    native_fusion: bool = True
    """false: without the residual N_t, as in the ablation of the paper's Table 6."""
    shared_experts: int = Field(default=1, ge=0, le=1024)
    """Shared experts per level; with 0, adatt is exactly adatt_sp, and in ple no task learns from another."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head; raises ValueError if the numbers do not fit together."""
        return build_adatt(self, num_features, len(tasks), self.shared_experts)


def build_adatt(
    config: AdaTTSpConfig | AdaTTConfig, num_features: int, num_tasks: int, shared_experts: int
) -> GatedHead:
    """Either form of AdaTT."""
    units = experts_per_task(config.task_experts, num_tasks)
    if shared_experts:
        units = [*units, shared_experts]

    all_experts = list(range(sum(units)))

    levels: list[FusionLevel] = []
    inputs = num_features

    for index, layers in enumerate(config.levels):
        is_last = index == len(config.levels) - 1
        num_fused = num_tasks if is_last else len(units)
        plan = LevelPlan(units, sees=[all_experts] * num_fused)
        widths = LevelWidths(inputs, inputs, layers)
        level = AdaTTLevel if config.native_fusion else FusionLevel
        levels.append(level(plan, widths, config))
        inputs = layers[-1]

    return GatedHead(levels, towers_above(levels, num_tasks, config), gates_read="unit")


class AdaTTLevel(FusionLevel):
    """A level whose units add their own experts once more, by native weights."""

    native_place: torch.Tensor
    """Where the experts of unit u itself lie in a flat [U · E]."""
    native: nn.Parameter | None
    """v of each of these experts; None: all are 1."""

    def __init__(self, plan: LevelPlan, widths: LevelWidths, config: HeadConfig) -> None:
        super().__init__(plan, widths, config)
        own_experts = [plan.experts_of(unit) for unit in range(plan.num_fused)]
        self.register_buffer("native_place", self.places(own_experts), persistent=False)

        is_learned = max(plan.experts_per_unit) > 1
        self.native = nn.Parameter(torch.empty(len(self.native_place))) if is_learned else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws v, uniform in ±sqrt(1/experts of the unit)."""
        if self.native is None:
            return

        bounds: list[float] = []
        for num_experts in self.plan.experts_per_unit[: self.num_fused]:
            bounds += [1 / math.sqrt(num_experts)] * num_experts

        with torch.no_grad():
            bound_N = torch.tensor(bounds, device=self.native.device)
            self.native.uniform_(-1, 1).mul_(bound_N)

    def forward(self, x: torch.Tensor, gate_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(fused_BUH, weights_BUE) of the units' inputs x_BUI; x_BI on the first level, where they are the same."""
        gate_BUE = self.gate(gate_x)
        weights_BUE = gate_BUE + self.native_weights(gate_BUE)  # G + pad(v)
        expert_BEH = self.experts(x)
        return fuse(weights_BUE, expert_BEH), weights_BUE

    def native_weights(self, like: torch.Tensor) -> torch.Tensor:
        """native_UE, pad(v) of the equations: v where unit u owns expert e, else 0."""
        native_N = like.new_ones(len(self.native_place)) if self.native is None else self.native
        zeros = native_N.new_zeros(self.num_fused * self.plan.num_experts)
        return zeros.index_copy(0, self.native_place, native_N).view(self.num_fused, self.plan.num_experts)
