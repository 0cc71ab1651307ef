"""Heads at equal compute: the widths at which one head costs what another does.

Widths of all levels grow or shrink together; number of levels, experts and towers stay what they are.
"""

from functools import partial

from models.cost import HeadCost, head_cost
from models.heads.base import HeadConfig
from trainer.config.run_config import Config

WIDEST = 1 << 14


def cost_of(config: Config) -> HeadCost:
    """Of the config's head on the config's features."""
    return head_cost(config.model, config.columns, config.head_tasks)


def at_equal_flops(config: Config, reference: Config) -> HeadConfig:
    """The config's head in the width whose training FLOPs are nearest to those of the reference's head."""
    target = cost_of(reference).training_flops
    flops = partial(_flops, config)
    low, high = 1, 2
    while high < WIDEST and flops(high) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if flops(middle) < target else (low, middle)

    nearest = min((low, high), key=lambda width: abs(flops(width) - target))
    return config.model.of_width(nearest)


def _flops(config: Config, width: int) -> int:
    return cost_of(config.model_copy(update={"model": config.model.of_width(width)})).training_flops
