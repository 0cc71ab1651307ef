"""MMoE, multi-gate mixture of experts (Ma et al., KDD 2018), and its form of several levels.

    f_t = Σ_e G_{t,e} E_e(x),  G_t = softmax(U_t x + c_t)          all tasks share the experts, each has a gate

In `mmoe`, experts are perceptrons of all `levels` laid end to end.

Multi-level MMoE (`ml_mmoe`, the baseline of Li et al., KDD 2023, section 4.1) has experts above experts, n on every
level. Below the last level each expert of the next one has a gate, which fuses its input; on the last level each task
has one. Every gate reads x, what the head itself reads:

    f_j' = Σ_e G_{j,e} E_e,  G_j = softmax(U_j x + c_j)

With one level it is `mmoe`.
"""

from collections.abc import Sequence
from typing import Literal

from models.heads.base import ExpertCount, Head, HeadConfig
from models.heads.gated import FusionLevel, GatedHead, LevelPlan, LevelWidths, towers_above


class MMoEConfig(HeadConfig):
    """Multi-gate mixture of experts."""

    head: Literal["mmoe"] = "mmoe"
    experts: ExpertCount = 4
    """Experts, shared by all tasks."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head."""
        return build_mmoe(self, num_features, len(tasks), (self.end_to_end,))


class MLMMoEConfig(HeadConfig):
    """MMoE of several levels."""

    head: Literal["ml_mmoe"] = "ml_mmoe"
    experts: ExpertCount = 4
    """Experts per level, shared by all tasks."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head."""
        return build_mmoe(self, num_features, len(tasks), self.levels)


def build_mmoe(
    config: MMoEConfig | MLMMoEConfig, num_features: int, num_tasks: int, expert_layers: tuple[tuple[int, ...], ...]
) -> GatedHead:
    """MMoE of any number of levels, with the layers of an expert for each."""
    all_experts = list(range(config.experts))
    one_expert_each = [1] * config.experts  # an expert has an input of its own, so that it is a unit

    levels: list[FusionLevel] = []
    inputs = num_features

    for index, layers in enumerate(expert_layers):
        is_last = index == len(expert_layers) - 1
        num_fused = num_tasks if is_last else config.experts
        plan = LevelPlan(one_expert_each, sees=[all_experts] * num_fused)
        levels.append(FusionLevel(plan, LevelWidths(inputs, num_features, layers), config))
        inputs = layers[-1]

    return GatedHead(levels, towers_above(levels, num_tasks, config), gates_read="features")
