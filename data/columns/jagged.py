"""The ids of a feature that holds any number of them a row."""

from typing import NamedTuple

import numpy as np

from data.compiled import compiled
from data.hashing import Int64


class Jagged(NamedTuple):
    """The ids of one feature: row i holds values[offsets[i] : offsets[i + 1]]."""

    values: Int64
    offsets: Int64
    """[R + 1]"""
    is_single: bool = False
    """Whether every row holds just one id."""


def take_ids(ids: Jagged, chosen: Int64) -> Jagged:
    """The ids of the chosen rows, in that order."""
    if ids.is_single:
        return Jagged(ids.values[chosen], np.arange(len(chosen) + 1), is_single=True)

    offsets = to_offsets(np.diff(ids.offsets)[chosen])
    values = np.empty(offsets[-1], np.int64)
    _copy_ids(ids.values, ids.offsets, chosen, offsets, values)
    return Jagged(values, offsets)


@compiled
def _copy_ids(values: Int64, offsets: Int64, chosen: Int64, new_offsets: Int64, target: Int64) -> None:
    for index in range(len(chosen)):
        begin = offsets[chosen[index]]
        new_begin = new_offsets[index]
        for step in range(new_offsets[index + 1] - new_begin):
            target[new_begin + step] = values[begin + step]


def to_offsets(lengths: Int64) -> Int64:
    """Where each row begins, and where the last ends."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
