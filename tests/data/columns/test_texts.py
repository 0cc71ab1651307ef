"""Hashes of texts against the library, for every length and every way in which Arrow stores them."""

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from data.columns.texts import LONGEST, hash_texts

TYPES = (pa.binary(), pa.large_binary())
ALL_LENGTHS = [bytes((7 * length + place) % 256 for place in range(length)) for length in range(2 * LONGEST + 50)]


def expected(texts: list[bytes]) -> list[int]:
    signed = 1 << 63
    return [(xxhash.xxh3_64_intdigest(text) + signed) % (2 * signed) - signed for text in texts]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_equals_the_library_at_every_length(kind: pa.DataType) -> None:
    assert hash_texts(pa.array(ALL_LENGTHS, kind)).tolist() == expected(ALL_LENGTHS)


@given(st.lists(st.binary(max_size=300)), st.sampled_from(TYPES))
def test_equals_the_library_on_any_bytes(texts: list[bytes], kind: pa.DataType) -> None:
    assert hash_texts(pa.array(texts, kind)).tolist() == expected(texts)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_text_is_hashed_by_its_utf_8_bytes(kind: pa.DataType) -> None:
    texts = ["", "a", "wörd", "四", "x" * 1000]
    assert hash_texts(pa.array(texts, kind)).tolist() == expected([text.encode() for text in texts])


@pytest.mark.parametrize("length", [1, 4, 16])
def test_bytes_of_one_length(length: int) -> None:
    texts = [bytes([value]) * length for value in range(5)]
    assert hash_texts(pa.array(texts, pa.binary(length))).tolist() == expected(texts)


def test_a_slice_is_hashed_alone() -> None:
    assert hash_texts(pa.array(ALL_LENGTHS).slice(3, 200)).tolist() == expected(ALL_LENGTHS[3:203])


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_bytes_at_all(texts: list[str]) -> None:
    assert hash_texts(pa.array(texts, pa.string())).tolist() == expected([b""] * len(texts))


def test_what_is_no_utf_8_is_damage() -> None:
    broken = pa.StringArray.from_buffers(1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe"))
    with pytest.raises(pa.ArrowInvalid, match="UTF8"):
        hash_texts(broken)
