"""Multi-level MMoE (the baseline of Li et al., KDD 2023, section 4.1): MMoE with experts above experts.

Every level has n experts. Below the last level each expert of the next one has a gate, which fuses its input; on the
last level each task has one. Every gate reads x, what the head itself reads:

    f_j' = Σ_e G_{j,e} E_e,  G_j = softmax(U_j x + c_j)
"""

from typing import Literal

from models.heads.base import ExpertCount, Head, HeadConfig
from models.heads.gated import GatedHead, LevelPlan


class MLMMoEConfig(HeadConfig):
    """MMoE of several levels."""

    head: Literal["ml_mmoe"] = "ml_mmoe"
    experts: ExpertCount = 4
    """Experts per level, shared by all tasks."""

    def build(self, num_features: int, num_tasks: int) -> Head:
        """The head."""
        return build_mmoe(self, num_features, num_tasks, self.experts, self.levels)


def build_mmoe(
    config: HeadConfig, num_features: int, num_tasks: int, experts: int, levels: tuple[tuple[int, ...], ...]
) -> Head:
    """MMoE of any number of levels; each expert of a level has an input of its own, so it is a unit."""
    everything = list(range(experts))
    fusing = [experts] * (len(levels) - 1) + [num_tasks]
    plans = [LevelPlan([1] * experts, [everything] * count) for count in fusing]
    return GatedHead(config, num_features, num_tasks, list(zip(plans, levels, strict=True)), gates_read="features")
