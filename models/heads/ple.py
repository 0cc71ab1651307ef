"""PLE, progressive layered extraction (Tang et al., RecSys 2020, section 4.2): own and shared experts.

Each task is a unit, the shared experts are one more; with f⁰ = x for all of them, on every level

    f_t' = Σ_e G_{t,e} E_e,  G_t = softmax(U_t f_t + c_t)     over the experts of task t and the shared ones
    f_s' = Σ_e G_{s,e} E_e,  G_s = softmax(U_s f_s + c_s)     over all experts; not on the last level
"""

from typing import Literal

from pydantic import Field

from models.heads.base import Head, HeadConfig, TaskExperts, experts_per_task
from models.heads.gated import GatedHead, LevelPlan


class PLEConfig(HeadConfig):
    """Progressive layered extraction."""

    head: Literal["ple"] = "ple"
    task_experts: TaskExperts = 1
    """Experts of each task per level; one number, or one per task."""
    shared_experts: int = Field(default=1, ge=0, le=1024)
    """Shared experts per level; with 0, adatt is exactly adatt_sp, and in ple no task learns from another."""

    def build(self, num_features: int, num_tasks: int) -> Head:
        """The head; ValueError where the numbers do not fit together."""
        tasks = experts_per_task(self.task_experts, num_tasks)
        units = tasks + ([self.shared_experts] if self.shared_experts else [])
        everything = LevelPlan(units, [])
        shared = list(range(sum(tasks), sum(units)))
        of_tasks = [everything.experts_of(task) + shared for task in range(num_tasks)]
        of_shared = [list(range(sum(units)))] if shared else []
        plans = [LevelPlan(units, of_tasks + of_shared)] * (len(self.levels) - 1) + [LevelPlan(units, of_tasks)]

        return GatedHead(self, num_features, num_tasks, list(zip(plans, self.levels, strict=True)), gates_read="unit")
