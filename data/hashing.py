"""Stable hashing and shuffling: the same numbers on every machine, in every version of every library.

Everything rests on the SplitMix64 finaliser (Steele, Lea, Flood, OOPSLA 2014), a bijection of 64-bit integers. numpy's
own generators may change their streams between versions; a resumed run must not.
"""

import hashlib
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]
Bits = TypeVar("Bits", np.uint64, UInt64)

_DIGIT_BITS = 11
"""Of a step of the radix sort: three of them sort 32-bit keys."""
_DIGITS = 1 << _DIGIT_BITS


def stable_seed(*parts: object) -> int:
    """63-bit seed of a name such as (17, "tables", "user", 3): equal parts, equal seed, on any machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@compiled
def mix(values: Bits) -> Bits:
    """SplitMix64's finaliser, of one integer or element by element; overflow wraps as intended."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def fold(ids: Int64, rows: int) -> Int64:
    """Ids of any size → table rows 0 … rows-1; equal ids always meet the same row."""
    return _fold(np.ascontiguousarray(ids).view(np.uint64), np.uint64(rows)).view(np.int64)


def permutation(count: int, *key: object) -> Int64:
    """A random order of 0 … count-1 that depends on `key` alone.

    The numbers are sorted by the upper 32 bits of mix(number ^ mix(seed)), seed = `stable_seed(*key)`; equal ones by
    themselves.
    """
    return _permutation(count, np.uint64(stable_seed(*key)))


@compiled
def _fold(ids: UInt64, rows: np.uint64) -> UInt64:
    folded = np.empty_like(ids)
    for index in range(len(ids)):
        folded[index] = mix(ids[index]) % rows
    return folded


@compiled
def _permutation(count: int, seed: np.uint64) -> Int64:
    """A radix sort from the lowest digit up, which keeps equal keys in order."""
    base = mix(seed)
    # One word for a key (upper half) and its number (lower half).
    entries = np.empty(count, np.uint64)
    target = np.empty(count, np.uint64)
    for number in range(count):
        key = mix(np.uint64(number) ^ base)
        entries[number] = (key >> np.uint64(32) << np.uint64(32)) | np.uint64(number)

    for shift in range(32, 64, _DIGIT_BITS):
        next_place = np.zeros(_DIGITS + 1, np.int64)
        for entry in entries:
            next_place[(entry >> np.uint64(shift)) % np.uint64(_DIGITS) + np.uint64(1)] += 1
        next_place = np.cumsum(next_place)

        for entry in entries:
            digit = (entry >> np.uint64(shift)) % np.uint64(_DIGITS)
            target[next_place[digit]] = entry
            next_place[digit] += 1
        entries, target = target, entries

    return (entries & np.uint64(0xFFFFFFFF)).view(np.int64)
