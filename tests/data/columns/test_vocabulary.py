"""Ids find the rows that a dictionary says, whatever else the table holds."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.columns.vocabulary import Vocabulary
from data.errors import DataError
from data.hashing import fold
from tests.data.test_stream import slow_mix

IDS = st.one_of(st.integers(-3, 40), st.integers(-(2**63), 2**63 - 1))


@given(
    known=st.lists(IDS, max_size=60, unique=True),
    asked=st.lists(IDS, max_size=60),
    unknown_rows=st.integers(0, 3),
)
def test_rows_are_those_of_a_dictionary(known: list[int], asked: list[int], unknown_rows: int) -> None:
    vocabulary = Vocabulary(pa.array(known, pa.int64()), unknown_rows)
    rows = {number: unknown_rows + index for index, number in enumerate(known)}
    others = {number: slow_mix(number & 2**64 - 1) % unknown_rows if unknown_rows else -1 for number in asked}
    expected = [(others | rows)[number] for number in asked]
    found = np.empty(len(asked), np.int32)
    assert vocabulary.find(np.array(asked, np.int64), found) == (-1 not in expected)
    assert found.tolist() == expected
    assert vocabulary.rows_needed == unknown_rows + len(known)


def test_ids_that_meet_in_the_hash_table_are_told_apart() -> None:
    """All of them begin to look at one place of it."""
    numbers = np.arange(1 << 20)
    crowded = numbers[fold(numbers, 1 << 12) == 7]
    vocabulary = Vocabulary(pa.array(crowded), 1)
    found = np.empty(len(crowded), np.int64)
    assert vocabulary.find(crowded, found)
    assert found.tolist() == list(range(1, len(crowded) + 1))


def test_text_and_its_copy() -> None:
    vocabulary = Vocabulary(pa.array(["b", "a", ""]), 1)
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy.digest == vocabulary.digest
    assert Vocabulary(pa.array(["a", "b", ""]), 1).digest != vocabulary.digest


def test_an_id_twice() -> None:
    with pytest.raises(DataError, match="holds 'a' more than once; an id has one row"):
        Vocabulary(pa.array(["b", "a", "a"]), 1)
