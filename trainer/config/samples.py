"""`train.samples = "all"` or "2 passes": as many samples as the data has rows, known once it has been opened."""

import re

from data.counts import parse_count

_PASSES = re.compile(r"([1-9]\d{0,5}) pass(es)?")


def parse_samples(text: str | int) -> int | str:
    """A count, or what stands for one; raises ValueError if it is neither."""
    if isinstance(text, str) and (text == "all" or _PASSES.fullmatch(text)):
        return text
    try:
        count = parse_count(text)
    except ValueError as error:
        raise ValueError(f'{error}; or "all", or as in "2 passes"') from error
    if count == 0:
        raise ValueError("input should be greater than 0, not 0")
    return count


def passes_of(samples: int | str) -> int | None:
    """Passes over the data that are wanted; None: the samples are counted."""
    if isinstance(samples, int):
        return None
    match = _PASSES.fullmatch(samples)
    return int(match[1]) if match else 1
