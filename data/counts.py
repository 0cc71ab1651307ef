"""Counts of samples and rows as people write them: 70B, 2.1M, 300k, 4096; and sizes in memory: 2GB."""

import re
from decimal import Decimal

_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
_NUMBER = r"\s*(\d[\d_]*(?:\.\d+)?)\s*"
_PATTERN = re.compile(_NUMBER + r"([kMB]?)\s*")
_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BYTES_PATTERN = re.compile(_NUMBER + f"({'|'.join(_UNITS)})\\s*")


def parse_count(text: str | int) -> int:
    """'2.1M' → 2_100_000, exactly (decimal arithmetic, no float); raises ValueError if it is not a whole number ≥ 0."""
    match = _PATTERN.fullmatch(str(text))
    if match is None or isinstance(text, bool):
        raise ValueError(f"{text!r} is not a count; write a whole number, or one with k, M or B, such as 300k or 2.1M")

    count = Decimal(match[1].replace("_", "")) * _FACTORS[match[2]]
    if count != count.to_integral_value():
        raise ValueError(f"{text!r} is not a whole number of samples")

    return int(count)


def parse_bytes(text: str | int) -> int:
    """'1.5GB' → 1_500_000_000, rounded down; raises ValueError if it is not a size ≥ 0."""
    match = _BYTES_PATTERN.fullmatch(str(text))
    if match is None or isinstance(text, bool):
        raise ValueError(f"{text!r} is not a size; write a number of bytes, or one with a unit, such as 500MB or 2GB")
    return int(Decimal(match[1].replace("_", "")) * _UNITS[match[2]])


def format_count(count: int) -> str:
    """2_100_000 → '2.1M', 37_888 → '37_888': a text that `parse_count` reads back to the same number.

    With a unit where that leaves a whole number, or three digits at most.
    """
    for unit in ("B", "M", "k"):
        if count >= _FACTORS[unit]:
            text = f"{(Decimal(count) / _FACTORS[unit]).normalize():f}"
            most = 4 if "." in text else 6
            return text + unit if len(text) <= most else f"{count:_}"
    return str(count)


def count_heading(count: int, text: str | None = None) -> str:
    """A count as tables show it, 2.1M or 37,888; `text` is how the user has written it."""
    return (text or format_count(count)).replace("_", ",")
