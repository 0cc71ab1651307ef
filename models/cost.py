"""Parameters and FLOPs of a head from its config alone: for comparisons at equal compute, and for planning."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.columns import Columns
from models.heads.base import HeadConfig


@dataclass(frozen=True)
class HeadCost:
    """What a head costs. A multiplication and an addition count as two FLOPs; only matrix products count."""

    parameters: int
    forward_flops: int
    """Per sample."""

    @property
    def training_flops(self) -> int:
        """Forward and backward, per sample: each product has two more in backward, as a head's input is trained too."""
        return 3 * self.forward_flops


def head_cost(config: HeadConfig, columns: Columns | int, tasks: Sequence[str]) -> HeadCost:
    """The cost; raises ValueError if the numbers do not fit together."""
    head = config.build_on_meta(columns, tasks)
    parameters = sum(parameter.numel() for parameter in head.parameters())
    flops = sum(getattr(part, "flops_per_row", 0) for part in head.modules())
    return HeadCost(parameters, flops)
