"""AdaTT (Li et al., KDD 2023, section 3.2): AdaTT-sp with one more unit, which holds the shared experts.

The shared unit fuses all experts like a task unit, native weights included, on every level but the last; there it only
contributes its experts. Native weights are 1 only where every unit, the shared one too, has exactly one expert.
"""

from typing import Literal

from pydantic import Field

from models.heads.adatt_sp import AdaTTSpConfig, build_adatt
from models.heads.base import Head


class AdaTTConfig(AdaTTSpConfig):
    """AdaTT with shared experts."""

    head: Literal["adatt"] = "adatt"  # type: ignore[assignment]
    shared_experts: int = Field(default=1, ge=0, le=1024)
    """Shared experts per level; with 0, adatt is exactly adatt_sp, and in ple no task learns from another."""

    def build(self, num_features: int, num_tasks: int) -> Head:
        """The head; ValueError where the numbers do not fit together."""
        return build_adatt(self, num_features, num_tasks, self.shared_experts)
