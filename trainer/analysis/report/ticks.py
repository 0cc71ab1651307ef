"""Ticks of an axis: round numbers, and their texts."""

import math
from collections.abc import Sequence

from data.counts import count_heading
from trainer.analysis.report.html import decimal


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, evenly spaced: at least two, at most `most`."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (1, 2, 5, 10, 20)]
    step = next(step for step in steps if step > rough)

    first = math.ceil(low / step)
    last = math.floor(high / step)
    return [number * step for number in range(first, last + 1)]


def tick_texts(values: Sequence[float], *, percent: bool = False) -> list[str]:
    """Texts of ticks, with as many decimals as tell them apart; counts as 25k or 1.5M."""
    scale = 100 if percent else 1
    step = scale * (values[1] - values[0])
    if step >= 1 and max(map(abs, values)) >= 1000:
        return [("−" if value < 0 else "") + count_heading(abs(round(value))) for value in values]

    decimals = max(0, -math.floor(math.log10(step) + 1e-9))  # of 0.1, whose logarithm may be -0.99…, one
    unit = " %" if percent else ""
    return [decimal(scale * value, f".{decimals}f") + unit for value in values]
