"""The ids of a feature that holds any number of them a row."""

from typing import NamedTuple

import numpy as np

from data.columns.numbers import Float32
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
        values = np.empty(len(chosen), np.int64)
        take(ids.values, chosen, values)
        return Jagged(values, np.arange(len(chosen) + 1), is_single=True)

    offsets = np.zeros(len(chosen) + 1, np.int64)
    _chosen_offsets(ids.offsets, chosen, offsets)
    values = np.empty(offsets[-1], np.int64)
    _copy_ids(ids.values, ids.offsets, chosen, offsets, values)
    return Jagged(values, offsets)


@compiled
def take(values: Int64 | Float32, chosen: Int64, target: Int64 | Float32) -> None:
    """Writes the chosen values to `target`, in half the time that numpy takes."""
    for index in range(len(chosen)):
        target[index] = values[np.uint64(chosen[index])]  # unsigned: it is not looked at for being negative


@compiled
def _chosen_offsets(offsets: Int64, chosen: Int64, target: Int64) -> None:
    for index in range(len(chosen)):
        row = np.uint64(chosen[index])
        target[index + 1] = target[index] + offsets[row + np.uint64(1)] - offsets[row]


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
