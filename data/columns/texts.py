"""Text → the 64-bit integer that it stands for: XXH3-64 with seed 0 of its bytes, straight from Arrow's memory.

XXH3 treats bytes by their number; up to 128 of them are hashed here, as in the specification of xxHash (Y. Collet,
doc/xxhash_spec.md, section "XXH3 Algorithm Overview"), and longer texts by the library.
"""

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from data.compiled import compiled, int64_at, uint8_at
from data.hashing import Int64, UInt64

UInt8 = NDArray[np.uint8]

LONGEST = 128
"""Bytes of the longest text that is hashed by compiled code."""
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
)
"""The first 128 bytes of XXH3's default secret."""
_SECRETS = np.frombuffer(_SECRET, "<u8").astype(np.uint64)

_PRIME64_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME64_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME64_3 = np.uint64(0x165667B19E3779F9)
_PRIME_MX1 = np.uint64(0x165667919E3779F9)
_PRIME_MX2 = np.uint64(0x9FB21C651E98DF25)


@compiled
def _read32(text: UInt8, at: int) -> np.uint64:
    """Little-endian; compiled to one load."""
    value = np.uint64(0)
    for byte in range(4):
        value |= np.uint64(text[at + byte]) << np.uint64(8 * byte)
    return value


@compiled
def _read64(text: UInt8, at: int) -> np.uint64:
    return _read32(text, at) | _read32(text, at + 4) << np.uint64(32)


@compiled
def _multiply_fold(one: np.uint64, other: np.uint64) -> np.uint64:
    """Lower ^ upper half of the 128-bit product."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    low_low = (one & low) * (other & low)
    high_low = (one >> half) * (other & low)
    low_high = (one & low) * (other >> half)
    high_high = (one >> half) * (other >> half)

    middle = (low_low >> half) + (high_low & low) + low_high
    upper = (high_low >> half) + (middle >> half) + high_high
    return (one * other) ^ upper


@compiled
def _avalanche(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(37))) * _PRIME_MX1
    return value ^ (value >> np.uint64(32))


@compiled
def _avalanche_short(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(33))) * _PRIME64_2
    value = (value ^ (value >> np.uint64(29))) * _PRIME64_3
    return value ^ (value >> np.uint64(32))


@compiled
def _rotate(value: np.uint64, bits: int) -> np.uint64:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@compiled
def _hash_to_3(text: UInt8, length: int, secrets: UInt64) -> np.uint64:
    first = np.uint64(text[0]) << np.uint64(16)
    middle = np.uint64(text[length >> 1]) << np.uint64(24)
    last = np.uint64(text[length - 1])
    flip = (secrets[0] & np.uint64(0xFFFFFFFF)) ^ (secrets[0] >> np.uint64(32))
    return _avalanche_short((first | middle | last | np.uint64(length) << np.uint64(8)) ^ flip)


@compiled
def _hash_to_8(text: UInt8, length: int, secrets: UInt64) -> np.uint64:
    value = _read32(text, length - 4) + (_read32(text, 0) << np.uint64(32))
    value ^= secrets[1] ^ secrets[2]
    value ^= _rotate(value, 49) ^ _rotate(value, 24)
    value *= _PRIME_MX2
    value ^= (value >> np.uint64(35)) + np.uint64(length)
    value *= _PRIME_MX2
    return value ^ (value >> np.uint64(28))


@compiled
def _hash_to_16(text: UInt8, length: int, secrets: UInt64) -> np.uint64:
    low = _read64(text, 0) ^ secrets[3] ^ secrets[4]
    high = _read64(text, length - 8) ^ secrets[5] ^ secrets[6]
    swapped = np.uint64(0)
    for byte in range(8):
        swapped |= ((low >> np.uint64(8 * byte)) & np.uint64(0xFF)) << np.uint64(56 - 8 * byte)
    return _avalanche(np.uint64(length) + swapped + high + _multiply_fold(low, high))


@compiled
def _hash_to_128(text: UInt8, length: int, secrets: UInt64) -> np.uint64:
    """16 bytes from either end, then the next, until they meet."""
    value = np.uint64(length) * _PRIME64_1
    for pair in range((length - 1) // 32 + 1):
        front = 16 * pair
        back = length - 16 - front
        value += _mix_16(text, front, secrets, 4 * pair)
        value += _mix_16(text, back, secrets, 4 * pair + 2)
    return _avalanche(value)


@compiled
def _mix_16(text: UInt8, at: int, secrets: UInt64, word: int) -> np.uint64:
    return _multiply_fold(_read64(text, at) ^ secrets[word], _read64(text, at + 8) ^ secrets[word + 1])


@compiled
def _hash_all(offsets: int, contents: int, hashes: UInt64, secrets: UInt64) -> Int64:
    """Writes the hash of every text of up to LONGEST bytes; the numbers of the others."""
    begins = int64_at(offsets)
    longer = [np.int64(index) for index in range(0)]

    for index in range(len(hashes)):
        begin = begins[index]
        length = begins[index + 1] - begin
        text = uint8_at(contents + begin)
        if length > LONGEST:
            longer.append(np.int64(index))
        elif length > 16:
            hashes[index] = _hash_to_128(text, length, secrets)
        elif length > 8:
            hashes[index] = _hash_to_16(text, length, secrets)
        elif length >= 4:
            hashes[index] = _hash_to_8(text, length, secrets)
        elif length > 0:
            hashes[index] = _hash_to_3(text, length, secrets)
        else:
            hashes[index] = _avalanche_short(secrets[7] ^ secrets[8])

    return np.array(longer, np.int64)


def hash_texts(texts: pa.Array) -> Int64:
    """The hash of each text, or of bytes as they are. No nulls; text that is no UTF-8 raises ArrowInvalid."""
    texts.validate(full=True)
    texts = texts.cast(pa.large_binary())
    _, offsets, contents = texts.buffers()
    if len(texts) == 0 or contents is None:  # no bytes at all: every text is empty
        return np.full(len(texts), xxhash.xxh3_64_intdigest(b""), np.uint64).view(np.int64)

    hashes = np.empty(len(texts), np.uint64)
    longer = _hash_all(offsets.address + 8 * texts.offset, contents.address, hashes, _SECRETS)
    for index in longer:
        hashes[index] = xxhash.xxh3_64_intdigest(texts[index].as_buffer())

    return hashes.view(np.int64)
