"""PLE, progressive layered extraction (Tang et al., RecSys 2020, section 4.2): own and shared experts.

Each task is a unit, the shared experts are one more; with f⁰ = x for all of them, on every level

    f_t' = Σ_e G_{t,e} E_e,  G_t = softmax(U_t f_t + c_t)     over the experts of task t and the shared ones
    f_s' = Σ_e G_{s,e} E_e,  G_s = softmax(U_s f_s + c_s)     over all experts; not on the last level
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from models.heads.base import Head, HeadConfig, TaskExperts, experts_per_task
from models.heads.gated import FusionLevel, GatedHead, LevelPlan, LevelWidths, towers_above


class PLEConfig(HeadConfig):
    """Progressive layered extraction."""

    head: Literal["ple"] = "ple"
    task_experts: TaskExperts = 1
    """Experts of each task per level; one number, or one per task."""
    shared_experts: int = Field(default=1, ge=0, le=1024)
    """Shared experts per level; with 0, adatt is exactly adatt_sp, and in ple no task learns from another."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head; raises ValueError if the numbers do not fit together."""
        levels: list[FusionLevel] = []
        inputs = num_features

        for index, layers in enumerate(self.levels):
            is_last = index == len(self.levels) - 1
            plan = self._plan(len(tasks), is_last=is_last)
            levels.append(FusionLevel(plan, LevelWidths(inputs, inputs, layers), self))
            inputs = layers[-1]

        return GatedHead(levels, towers_above(levels, len(tasks), self), gates_read="unit")

    def _plan(self, num_tasks: int, *, is_last: bool) -> LevelPlan:
        """Who sees what on a level: a task its own and the shared experts, the shared unit all."""
        of_tasks = experts_per_task(self.task_experts, num_tasks)
        units = [*of_tasks, self.shared_experts] if self.shared_experts else of_tasks
        all_experts = list(range(sum(units)))
        shared = all_experts[sum(of_tasks) :]

        owned = LevelPlan(units, sees=[])
        sees = [owned.experts_of(task) + shared for task in range(num_tasks)]
        if shared and not is_last:
            sees.append(all_experts)

        return LevelPlan(units, sees)
