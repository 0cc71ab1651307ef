"""STEM (Su et al., AAAI 2024): every task has embeddings of its own, beside those that all share.

    v_t = [embeddings of task t, x]     v_s = [shared embeddings, x]     u_t = [embeddings of t + shared ones, x]
    E_{t,i} = expert i of task t, on v_t                                 E_{s,i} = shared expert i, on v_s
    G_t     = softmax(U_t u_t + c_t)                                     over the experts of all units
    f_t     = Σ_j G_{t,j} E_j        in backward: no gradient from f_t to the experts of other tasks
    logit of t = tower of f_t

x are the dense features. So a task reads what all have learned (all forward), but trains its own experts and embeddings
and the shared ones alone (task-specific backward). Each id has T + 1 embeddings, in one row of its table.

Levels are laid end to end: in the authors' code a second level lets a task's loss reach the others' experts after all,
through the shared unit. Its gates may have hidden layers; here they are linear, as in the other heads.

Shapes: B rows, F columns, T tasks, U = T + 1 units, K columns of one embedding of all features, D of dense ones, E
experts, H their width.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from models.columns import Columns, unnamed_columns
from models.heads.base import Head, HeadConfig, TaskExperts, experts_per_task
from models.heads.gated import FusionLevel, GatedHead, LevelPlan, LevelWidths, towers_above


class STEMConfig(HeadConfig):
    """Embeddings and experts for each task and for all; a task fuses all experts, and trains its own and the shared."""

    head: Literal["stem"] = "stem"
    task_experts: TaskExperts = 1
    """Experts of each task per level; one number, or one per task."""
    shared_experts: int = Field(default=1, ge=0, le=1024)
    """Experts on the shared embeddings; with 0 only the gates read these."""

    def embeddings_per_id(self, num_tasks: int) -> int:
        """One for each task, and the shared one."""
        return num_tasks + 1

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head on columns without names."""
        return self.build_for(unnamed_columns(num_features, self.embeddings_per_id(len(tasks))), tasks)

    def build_for(self, columns: Columns, tasks: Sequence[str]) -> Head:
        """The head."""
        return STEM(self, columns, len(tasks))


class STEM(GatedHead):
    """The head."""

    of_columns = frozenset({"levels"})

    def __init__(self, config: STEMConfig, columns: Columns, num_tasks: int) -> None:
        experts = experts_per_task(config.task_experts, num_tasks)
        if config.shared_experts:
            experts = [*experts, config.shared_experts]
        plan = LevelPlan(experts, [list(range(sum(experts)))] * num_tasks)
        inputs = columns.embedding_width + columns.dense_width
        level = OwnFusionLevel(plan, LevelWidths(inputs, inputs, config.end_to_end), config)
        super().__init__([level], towers_above([level], num_tasks, config), gates_read="unit")
        self.columns = columns
        self.num_reading = len(experts)
        """Units that have experts."""

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        units, width = self.columns.embeddings_per_id, self.columns.embedding_width
        dense_B1D = features_BF[:, units * width :].unsqueeze(1)
        embedding_BUK = features_BF[:, : units * width].unflatten(1, (units, width))
        shared_B1K = embedding_BUK[:, -1:]
        both_BTK = embedding_BUK[:, :-1] + shared_B1K

        read_BUK = embedding_BUK[:, : self.num_reading]
        x_BUI = torch.cat([read_BUK, dense_B1D.expand(-1, self.num_reading, -1)], dim=2)
        gate_x_BTI = torch.cat([both_BTK, dense_B1D.expand(-1, units - 1, -1)], dim=2)
        fused_BTH, _ = self.levels[0](x_BUI, gate_x_BTI)
        return self.towers(fused_BTH)


class OwnFusionLevel(FusionLevel):
    """All experts forward; backward those of the task and the shared ones."""

    is_trained_TE: torch.Tensor

    def __init__(self, plan: LevelPlan, widths: LevelWidths, config: HeadConfig) -> None:
        super().__init__(plan, widths, config)
        is_trained_TE = torch.zeros(plan.num_fused, plan.num_experts)
        is_trained_TE[:, sum(plan.experts_per_unit[: plan.num_fused]) :] = 1
        for task in range(plan.num_fused):
            is_trained_TE[task, plan.experts_of(task)] = 1
        self.register_buffer("is_trained_TE", is_trained_TE, persistent=False)

    def forward(self, x: torch.Tensor, gate_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(fused_BTH, weights_BTE) of the experts' input x_BUI and the gates' input gate_x_BTI."""
        gate_BTE = self.gate(gate_x)
        expert_BEH = self.experts(x)
        return _OwnFusion.apply(gate_BTE.to(expert_BEH.dtype), expert_BEH, self.is_trained_TE), gate_BTE


class _OwnFusion(torch.autograd.Function):
    """torch.bmm, whose backward leaves out the experts of other tasks: the same products as without."""

    @staticmethod
    def forward(gate_BTE: torch.Tensor, expert_BEH: torch.Tensor, is_trained_TE: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return torch.bmm(gate_BTE, expert_BEH)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient_BTH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        gate_BTE, expert_BEH, is_trained_TE = ctx.saved_tensors
        gate_gradient_BET = torch.bmm(expert_BEH, gradient_BTH.transpose(1, 2))
        own_gate_BTE = gate_BTE * is_trained_TE.to(gate_BTE.dtype)
        return gate_gradient_BET.transpose(1, 2), torch.bmm(own_gate_BTE.transpose(1, 2), gradient_BTH), None
