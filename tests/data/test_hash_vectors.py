"""The test vectors of docs/data.md, from which others write the hashing anew: the code keeps to them, and so does plain
Python."""

import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pytest
import xxhash

from data.columns.decode import Columns, decode
from data.features import Features, SparseFeature

DOCS = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
MASK = 2**64 - 1
TABLES = (1000, 1 << 20, 10_000_000)


class Vector(NamedTuple):
    value: int | str
    bits: int
    mixed: int
    rows: tuple[int, ...]


def read_vectors() -> list[Vector]:
    table = DOCS[DOCS.index("| id | 64 bits | mixed | of 1,000 | of 1,048,576 | of 10,000,000 |") :].split("\n\n")[0]
    return [parse(line) for line in table.splitlines()[2:]]


def parse(line: str) -> Vector:
    name, bits, mixed, *rows = (cell.strip() for cell in line.strip("|").split("|"))
    text = re.fullmatch(r'`"(.*)"`(?: (\d+) times)?', name)
    value = text[1] * int(text[2] or 1) if text else int(name.strip("`"))
    return Vector(value, int(bits.strip("`"), 16), int(mixed.strip("`"), 16), tuple(map(int, rows)))


VECTORS = read_vectors()


def test_the_page_has_vectors_of_both_kinds() -> None:
    kinds = [type(vector.value) for vector in VECTORS]
    assert kinds.count(int) == 6
    assert kinds.count(str) == 6


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: repr(vector.value)[:20])
def test_vectors_equal_plain_python(vector: Vector) -> None:
    """Independent of the program: SplitMix64 in integers without end."""
    value = vector.value
    bits = value & MASK if isinstance(value, int) else xxhash.xxh3_64_intdigest(value.encode(), seed=0)
    mixed = (bits + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    mixed ^= mixed >> 31
    assert (vector.bits, vector.mixed) == (bits, mixed)
    assert vector.rows == tuple(mixed % rows for rows in TABLES)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: repr(vector.value)[:20])
def test_vectors_equal_the_program(vector: Vector) -> None:
    table = pa.table({"id": [vector.value]})
    feature = SparseFeature(column="id", table="table", hash=True)
    for rows, expected in zip(TABLES, vector.rows, strict=True):
        (ids,) = decode(table, Columns(Features(sparse=(feature,)), {"table": rows}, ()), str).ids
        assert ids.values.tolist() == [expected]


def test_the_code_on_the_page_is_right() -> None:
    (code,) = re.findall(r"```python\n(def row_of.*?)```", DOCS, re.DOTALL)
    scope: dict[str, object] = {}
    exec(code, scope)
    for vector in VECTORS:
        assert tuple(scope["row_of"](vector.bits, rows) for rows in TABLES) == vector.rows  # type: ignore[operator]


def test_the_older_function_gives_other_numbers() -> None:
    texts = [vector for vector in VECTORS if isinstance(vector.value, str)]
    assert all(xxhash.xxh64_intdigest(str(vector.value).encode()) != vector.bits for vector in texts)
