"""The hashes of an export, in Python's own integers, are those of the program."""

import random

import numpy as np
import pytest
import xxhash

from data.hashing import mix as mix_of_program
from trainer.export.standalone.hashes import mix, xxh3_64

LENGTHS = [*range(280), 511, 512, 513, 1023, 1024, 1025, 1087, 1088, 1089, 2047, 2048, 2049, 2112, 4000]


def test_text_is_hashed_as_by_xxhash() -> None:
    generator = random.Random(3)
    texts = [generator.randbytes(length) for length in LENGTHS]
    assert [xxh3_64(text) for text in texts] == [xxhash.xxh3_64_intdigest(text) for text in texts]


@pytest.mark.parametrize("number", [0, 1, 0x6E756C6C, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_integers_are_mixed_as_by_the_program(number: int) -> None:
    assert mix(number) == int(mix_of_program(np.uint64(number)))
