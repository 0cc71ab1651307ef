"""AdaTT-sp (Li et al., KDD 2023, section 3.1): every task has experts of its own and fuses those of all tasks.

Each task t is a unit; with f⁰ = x for all of them, on every level

    E_{t,i} = expert i of task t, on f_t                  (one perceptron each)
    A_t     = Σ_e G_{t,e} E_e,  G_t = softmax(U_t f_t + c_t)      over the experts of all tasks
    N_t     = Σ_i v_{t,i} E_{t,i}                         native linear fusion, v learned, independent of the input
    f_t'    = A_t + N_t = (G_t + pad(v_t))ᵀ E             the paper's efficient form

With one expert per task N_t = E_t. Task t's tower reads f_t of the last level. `adatt` is the same with one more unit.
"""

from typing import Literal

from models.heads.base import Head, HeadConfig, TaskExperts, experts_per_task
from models.heads.gated import GatedHead, LevelPlan, Native


class AdaTTSpConfig(HeadConfig):
    """AdaTT with task-specific experts only."""

    head: Literal["adatt_sp"] = "adatt_sp"
    task_experts: TaskExperts = 1
    """Experts of each task per level; one number, or one per task."""
    native_fusion: bool = True
    """false: without the residual N_t, as in the ablation of the paper's Table 6."""

    def build(self, num_features: int, num_tasks: int) -> Head:
        """The head; ValueError where the numbers do not fit together."""
        return build_adatt(self, num_features, num_tasks, shared_experts=0)


def build_adatt(config: AdaTTSpConfig, num_features: int, num_tasks: int, shared_experts: int) -> Head:
    """Either form of AdaTT. A shared unit fuses like a task, but not on the last level: nothing would read it there."""
    units = experts_per_task(config.task_experts, num_tasks) + ([shared_experts] if shared_experts else [])
    everything = list(range(sum(units)))
    native: Native = "none" if not config.native_fusion else "ones" if max(units) == 1 else "learned"
    fusing = [len(units)] * (len(config.levels) - 1) + [num_tasks]
    plans = [LevelPlan(units, [everything] * count, native) for count in fusing]
    return GatedHead(config, num_features, num_tasks, list(zip(plans, config.levels, strict=True)), gates_read="unit")
