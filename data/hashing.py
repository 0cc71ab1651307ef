"""Stable hashing and shuffling: the same numbers on every machine, in every version of every library.

Everything rests on the SplitMix64 finaliser (Steele, Lea, Flood, OOPSLA 2014), a bijection of 64-bit integers. numpy's
own generators may change their streams between versions; a resumed run must not.
"""

import hashlib

import numpy as np
import xxhash
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]


def stable_seed(*parts: object) -> int:
    """63-bit seed of a name such as (17, "tables", "user", 3): equal parts, equal seed, on any machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def mix(values: UInt64) -> UInt64:
    """SplitMix64's finaliser, element by element; overflow wraps as intended."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def fold(ids: Int64, rows: int) -> Int64:
    """Ids of any size → table rows 0 … rows-1; equal ids always meet the same row."""
    mixed = mix(ids.view(np.uint64))
    return (mixed % np.uint64(rows)).view(np.int64)


def hash_texts(texts: list[str] | list[bytes]) -> Int64:
    """XXH3-64 (seed 0) of the UTF-8 bytes of each text, or of bytes as they are: the id that it stands for."""
    contents = [text.encode() if isinstance(text, str) else text for text in texts]
    hashes = [xxhash.xxh3_64_intdigest(content) for content in contents]
    return np.array(hashes, np.uint64).view(np.int64)


def permutation(count: int, *key: object) -> Int64:
    """A random order of 0 … count-1 that depends on `key` alone."""
    base = mix(np.array([stable_seed(*key)], np.uint64))
    keys = mix(np.arange(count, dtype=np.uint64) ^ base)
    return np.argsort(keys, kind="stable")
