"""SplitMix64 of integers, and XXH3-64 of bytes (Y. Collet, doc/xxhash_spec.md, seed 0), in Python's own integers."""

MASK = (1 << 64) - 1
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIMES_32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
PRIMES_64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
STRIPE, BLOCK = 64, 1024


def mix(number: int) -> int:
    """SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) of the lower 64 bits."""
    number = (number + 0x9E3779B97F4A7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def xxh3_64(text: bytes) -> int:
    """XXH3-64 with seed 0."""
    length = len(text)
    if length > 240:
        return _hash_long(text)
    if length > 128:
        return _hash_to_240(text)
    if length > 16:
        starts = [place for pair in range((length - 1) // 32 + 1) for place in (16 * pair, length - 16 - 16 * pair)]
        return _avalanche(length * PRIMES_64[0] + _mixed(text, starts, range(0, 16 * len(starts), 16)))
    if length > 8:
        low = _read(text, 0) ^ _read(SECRET, 24) ^ _read(SECRET, 32)
        high = _read(text, length - 8) ^ _read(SECRET, 40) ^ _read(SECRET, 48)
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return _avalanche(length + swapped + high + _multiply_fold(low, high))
    if length > 3:
        value = _read(text, length - 4, 4) + (_read(text, 0, 4) << 32) ^ _read(SECRET, 8) ^ _read(SECRET, 16)
        value ^= _rotate(value, 49) ^ _rotate(value, 24)
        value = value * 0x9FB21C651E98DF25 & MASK
        value = (value ^ ((value >> 35) + length)) * 0x9FB21C651E98DF25 & MASK
        return value ^ (value >> 28)
    if length > 0:
        value = text[0] << 16 | text[length >> 1] << 24 | text[-1] | length << 8
        return _avalanche_short(value ^ _read(SECRET, 0, 4) ^ _read(SECRET, 4, 4))
    return _avalanche_short(_read(SECRET, 56) ^ _read(SECRET, 64))


def _hash_to_240(text: bytes) -> int:
    length = len(text)
    count = length // 16
    first = _avalanche(length * PRIMES_64[0] + _mixed(text, range(0, 128, 16), range(0, 128, 16)))
    middle = _mixed(text, range(128, 16 * count, 16), range(3, 3 + 16 * (count - 8), 16))
    return _avalanche(first + middle + _mixed(text, [length - 16], [119]))


def _hash_long(text: bytes) -> int:
    length = len(text)
    sums = [PRIMES_32[2], *PRIMES_64[:4], PRIMES_32[1], PRIMES_64[4], PRIMES_32[0]]
    last_block = (length - 1) // BLOCK * BLOCK
    for start in range(0, last_block, STRIPE):
        _accumulate(sums, text, start, start % BLOCK // 8)
        if start % BLOCK == BLOCK - STRIPE:
            for lane in range(8):
                value = (sums[lane] ^ (sums[lane] >> 47) ^ _read(SECRET, 128 + 8 * lane)) * PRIMES_32[0]
                sums[lane] = value & MASK

    for start in range(last_block, last_block + (length - 1 - last_block) // STRIPE * STRIPE, STRIPE):
        _accumulate(sums, text, start, (start - last_block) // 8)
    _accumulate(sums, text, length - STRIPE, 121)

    result = length * PRIMES_64[0]
    for pair in range(4):
        low = sums[2 * pair] ^ _read(SECRET, 11 + 16 * pair)
        high = sums[2 * pair + 1] ^ _read(SECRET, 19 + 16 * pair)
        result += _multiply_fold(low, high)
    return _avalanche(result)


def _accumulate(sums: list[int], text: bytes, start: int, secret: int) -> None:
    for lane in range(8):
        value = _read(text, start + 8 * lane)
        key = value ^ _read(SECRET, secret + 8 * lane)
        sums[lane ^ 1] = sums[lane ^ 1] + value & MASK
        sums[lane] = sums[lane] + (key & 0xFFFFFFFF) * (key >> 32) & MASK


def _mixed(text: bytes, starts: list[int] | range, secrets: list[int] | range) -> int:
    total = 0
    for start, secret in zip(starts, secrets, strict=True):
        low = _read(text, start) ^ _read(SECRET, secret)
        total += _multiply_fold(low, _read(text, start + 8) ^ _read(SECRET, secret + 8))
    return total


def _read(text: bytes, start: int, size: int = 8) -> int:
    return int.from_bytes(text[start : start + size], "little")


def _multiply_fold(one: int, other: int) -> int:
    product = one * other
    return (product ^ (product >> 64)) & MASK


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & MASK


def _avalanche(value: int) -> int:
    value &= MASK
    value = (value ^ (value >> 37)) * 0x165667919E3779F9 & MASK
    return value ^ (value >> 32)


def _avalanche_short(value: int) -> int:
    value = (value ^ (value >> 33)) * PRIMES_64[1] & MASK
    value = (value ^ (value >> 29)) * PRIMES_64[2] & MASK
    return value ^ (value >> 32)
