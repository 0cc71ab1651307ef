"""MMoE, multi-gate mixture of experts (Ma et al., KDD 2018): one level of experts for all tasks, a gate for each task.

    f_t = Σ_e G_{t,e} E_e(x),  G_t = softmax(U_t x + c_t)

Experts are perceptrons of all `levels` laid end to end. It is `ml_mmoe` with one level.
"""

from typing import Literal

from models.heads.base import ExpertCount, Head, HeadConfig
from models.heads.ml_mmoe import build_mmoe


class MMoEConfig(HeadConfig):
    """Multi-gate mixture of experts."""

    head: Literal["mmoe"] = "mmoe"
    experts: ExpertCount = 4
    """Experts, shared by all tasks."""

    def build(self, num_features: int, num_tasks: int) -> Head:
        """The head."""
        return build_mmoe(self, num_features, num_tasks, self.experts, (self.end_to_end,))
