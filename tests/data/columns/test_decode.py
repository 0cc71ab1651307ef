import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data.columns.decode import Columns, Rows, decode
from data.columns.ids import Jagged
from data.columns.numbers import Label
from data.conditions import parse_condition
from data.errors import DataError
from data.features import DenseFeature, Features, SparseFeature
from data.hashing import fold

UNKNOWN = "write null if it is not known"
exact = settings(max_examples=60)


def columns_of(
    *features: SparseFeature | DenseFeature, labels: tuple[Label, ...] = (), weight: str | None = None, rows: int = 10
) -> Columns:
    sparse = tuple(feature for feature in features if isinstance(feature, SparseFeature))
    dense = tuple(feature for feature in features if isinstance(feature, DenseFeature))
    return Columns(Features(sparse=sparse, dense=dense), {"t": rows}, labels, weight)


def decoded(columns: Columns, **arrays: pa.Array) -> Rows:
    return decode(pa.table(arrays), columns, lambda row: f"row {row}")


def ids_of(array: pa.Array, rows: int = 10, **settings: Any) -> list[list[int]]:
    (jagged,) = decoded(columns_of(SparseFeature(column="x", table="t", **settings), rows=rows), x=array).ids
    return as_lists(jagged)


def as_lists(jagged: Jagged) -> list[list[int]]:
    assert jagged.values.dtype in (np.int32, np.int64)
    if jagged.offsets is None:
        return [[value] for value in jagged.values.tolist()]
    assert jagged.offsets.dtype == np.int64
    assert jagged.offsets[0] == 0
    assert jagged.offsets[-1] == len(jagged.values)
    pairs = zip(jagged.offsets[:-1], jagged.offsets[1:], strict=True)
    return [jagged.values[begin:end].tolist() for begin, end in pairs]


def dense_of(array: pa.Array, **settings: Any) -> list[float]:
    rows = decoded(columns_of(DenseFeature(column="x", **settings)), x=array)
    assert rows.dense_RD.dtype == np.float32
    assert rows.dense_RD.shape == (len(array), 1)
    return rows.dense_RD[:, 0].tolist()


# ---- ids

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_scalar_ids(kind: pa.DataType) -> None:
    assert ids_of(pa.array([3, None, 0, 9], kind)) == [[3], [], [0], [9]]


@pytest.mark.parametrize("wrap", [pa.list_, pa.large_list])
@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_lists_of_ids(wrap: Any, kind: pa.DataType) -> None:
    lists = [[3, 1], None, [], [None], [0, None, 9], [None, None, 2]]
    assert ids_of(pa.array(lists, wrap(kind))) == [[3, 1], [], [], [], [0, 9], [2]]


def test_lists_of_fixed_size() -> None:
    assert ids_of(pa.array([[3, 1], None, [0, None]], pa.list_(pa.int32(), 2))) == [[3, 1], [], [0]]


def hashed(*texts: str, rows: int = 1000) -> list[int]:
    numbers = [xxhash.xxh3_64_intdigest(text.encode()) for text in texts]
    return fold(np.array(numbers, np.uint64).view(np.int64), rows).tolist()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_strings_are_hashed(kind: pa.DataType) -> None:
    found = ids_of(pa.array(["a", None, "", "né", "a"], pa.string()).cast(kind), rows=1000, hash=True)
    assert found == [hashed("a"), [], hashed(""), hashed("né"), hashed("a")]


def test_lists_of_strings_are_hashed() -> None:
    lists = pa.array([["b", "a"], None, [None, "a"], []], pa.list_(pa.string()))
    expected = [hashed("b", "a"), [], hashed("a"), []]
    assert ids_of(lists, rows=1000, hash=True) == expected
    encoded = pa.ListArray.from_arrays([0, 2, 4, 4], pa.array(["b", "a", None, "a"]).dictionary_encode())
    assert ids_of(encoded, rows=1000, hash=True) == [expected[0], expected[2], []]


def test_golden_hashes_of_strings() -> None:
    """A trained table is useless where its strings meet other rows."""
    assert ids_of(pa.array(["user_1", "", "né"]), rows=10**9, hash=True) == [[181144559], [50963950], [782855149]]


@exact
@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.integers(1, 2**40))
def test_integers_are_folded(numbers: list[int], rows: int) -> None:
    expected = fold(np.array(numbers, np.int64), rows).tolist()
    assert ids_of(pa.array(numbers, pa.int64()), rows=rows, hash=True) == [[number] for number in expected]


def test_an_id_is_folded_alike_whatever_its_type() -> None:
    expected = [[number] for number in fold(np.array([3, 100]), 7).tolist()]
    for kind in INTEGERS:
        assert ids_of(pa.array([3, 100], kind), rows=7, hash=True) == expected
    assert ids_of(pa.array([[3], [100]], pa.list_(pa.int32())), rows=7, hash=True) == expected
    assert ids_of(pa.array([3, 100]).dictionary_encode(), rows=7, hash=True) == expected


id_lists = st.lists(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=4), max_size=12)


@exact
@given(id_lists, st.data())
def test_any_slice_of_any_chunks_equals_plain_python(lists: list[list[int | None] | None], draw: st.DataObject) -> None:
    """Slices keep the offsets and buffers of the whole."""
    cut = draw.draw(st.integers(0, len(lists)))
    begin = draw.draw(st.integers(0, len(lists)))
    kind = pa.list_(pa.int64())
    chunks = pa.chunked_array([pa.array(lists[:cut], kind), pa.array(lists[cut:], kind)])
    table = pa.table({"x": chunks}).slice(begin, 5)
    (jagged,) = decode(table, columns_of(SparseFeature(column="x", table="t")), str).ids
    assert as_lists(jagged) == [
        [number for number in row or [] if number is not None] for row in lists[begin : begin + 5]
    ]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([0, 9, 10, 11]), "row 2: column 'x' holds id 10, but table 't' has rows 0 to 9; .*hash = true$"),
        (pa.array([None, None, -1]), "row 2: column 'x' holds id -1, but table 't' has rows 0 to 9; "),
        (pa.array([0, -(2**63)]), "row 1: column 'x' holds id -9223372036854775808, "),
        (pa.array([[1, 2], None, [], [3, None, 10]]), "row 3: column 'x' holds id 10, "),
        (pa.array([[10], [1]]), "row 0: column 'x' holds id 10, "),
        (pa.array([1, 2**63 + 5], pa.uint64()), "row 1: column 'x' holds id 9223372036854775813, "),
        (pa.array([[1], [2, 2**64 - 1]], pa.list_(pa.uint64())), "row 1: column 'x' holds id 18446744073709551615, "),
    ],
)
def test_an_id_without_a_row_is_named(array: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        ids_of(array)


@exact
@given(
    st.lists(st.none() | st.integers(-100, 100), max_size=20),
    st.lists(st.integers(-50, 50), min_size=1, max_size=5, unique=True).map(sorted),
    st.sampled_from([pa.int16(), pa.int64(), pa.float16(), pa.float32(), pa.float64()]),
)
def test_buckets_count_the_boundaries_up_to_the_value(
    numbers: list[int | None], edges: list[int], kind: pa.DataType
) -> None:
    array = pa.array(numbers, pa.int16()).cast(kind)
    expected = [[] if number is None else [sum(edge <= number for edge in edges)] for number in numbers]
    assert ids_of(array, boundaries=tuple(edges)) == expected


def test_buckets_of_large_numbers_are_exact() -> None:
    """A time in milliseconds needs more digits than float32 has."""
    edge = 1_650_000_000_000
    for kind in (pa.int64(), pa.float64()):
        assert ids_of(pa.array([edge - 1, edge, edge + 1], kind), boundaries=(edge, edge + 1)) == [[0], [1], [2]]


def test_a_value_that_is_written_as_the_boundary_reaches_it() -> None:
    for kind in (pa.float32(), pa.float64()):
        assert ids_of(pa.array([0.1, 0.7], kind), boundaries=(0.1, 0.7)) == [[1], [2]]


# ---- dense features


@pytest.mark.parametrize("kind", [*INTEGERS, pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_dense_features(kind: pa.DataType) -> None:
    assert dense_of(pa.array([3, None, 0, 100], pa.uint8()).cast(kind)) == [3, 0, 0, 100]


def test_a_signalling_nan_counts_as_missing() -> None:
    """Without a warning of numpy's."""
    array = pa.array(np.array([0x7FA00000, 0x3F800000], np.uint32).view(np.float32))
    for transform in ("none", "log1p"):
        assert dense_of(array, transform=transform, mean=0.25)[0] == 0


def test_booleans_are_numbers() -> None:
    assert dense_of(pa.array([True, None, False])) == [1, 0, 0]


@exact
@given(
    st.lists(st.none() | st.floats(-1e6, 1e6, width=32), max_size=20),
    st.sampled_from(["none", "log1p"]),
    st.floats(-10, 10),
    st.floats(0.125, 8),
)
def test_dense_features_equal_a_float64_loop(
    numbers: list[float | None], transform: str, mean: float, scale: float
) -> None:
    def slow(number: float | None) -> float:
        if number is None:
            return 0.0
        value = math.copysign(math.log1p(abs(number)), number) if transform == "log1p" else number
        return (value - mean) / scale

    found = dense_of(pa.array(numbers, pa.float32()), transform=transform, mean=mean, scale=scale)
    assert found == pytest.approx(list(map(slow, numbers)), rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("transform", ["none", "log1p"])
def test_a_feature_without_a_finite_value_counts_as_missing(transform: str) -> None:
    array = pa.array([math.nan, math.inf, -math.inf, None])
    assert dense_of(array, transform=transform, mean=5, scale=2) == [0, 0, 0, 0]


def test_rows_without_a_finite_value_are_counted() -> None:
    """In every feature; nulls are not, since they are meant."""
    rows = decoded(
        columns_of(*(DenseFeature(column=name) for name in "abc")),
        a=pa.array([math.nan, None, math.inf, -math.inf, 1]),
        b=pa.array([1, 2, None, 4, 5]),
        c=pa.array([1, math.nan, 3, 4, 5], pa.float32()),
    )
    assert [places.tolist() for places in rows.not_finite] == [[0, 2, 3], [], [1]]
    assert rows.dense_RD[:, 0].tolist() == [0, 0, 0, 0, 1]


def test_a_clock_in_milliseconds_keeps_its_digits() -> None:
    """Float32 has 24 bits: 256 seconds of such a clock would be 3 values."""
    begin = 1_650_000_000_000
    clock = [begin + 1000 * second for second in range(256)]
    for kind in (pa.int64(), pa.uint64(), pa.float64(), pa.decimal128(20, 0)):
        assert dense_of(pa.array(clock).cast(kind), mean=begin, scale=1000) == list(range(256))


def test_a_mean_keeps_its_digits_whatever_the_type() -> None:
    mean = 2**24 + 1
    for kind in (pa.float32(), pa.int32()):
        assert dense_of(pa.array([2**24, 2**24 + 2]).cast(kind, safe=False), mean=mean) == [-1, 1]


def test_logarithms_are_of_the_whole_number() -> None:
    (found,) = dense_of(pa.array([1e300]), transform="log1p")
    assert found == np.float32(math.log1p(1e300))


@pytest.mark.parametrize(
    ("value", "settings"),
    [(1e308, {}), (-1e39, {}), (1e30, {"scale": 1e-10}), (1e308, {"scale": 1e-10}), (1.0, {"mean": -1e300})],
)
def test_a_number_beyond_float32_is_named(value: float, settings: dict[str, float]) -> None:
    message = (
        rf"^row 2: column 'x' is {re.escape(str(value))}, after transform, mean and scale more than 3\.4e\+38, the "
    )
    with pytest.raises(DataError, match=message):
        dense_of(pa.array([None, math.inf, value]), **settings)
    assert dense_of(pa.array([value]), transform="log1p", scale=1.0) == [
        np.float32(math.copysign(math.log1p(abs(value)), value))
    ]


def test_features_keep_their_declared_order() -> None:
    columns = columns_of(
        DenseFeature(column="b"),
        SparseFeature(column="b", table="t"),
        DenseFeature(column="a"),
        SparseFeature(column="a", table="t"),
        labels=(Label("d", binary=False), Label("c", binary=True)),
    )
    arrays = {"a": [1, 2], "b": [3, 4], "c": [0, 1], "d": [7, 8]}
    rows = decoded(columns, **{name: pa.array(values) for name, values in arrays.items()})
    assert rows.dense_RD.tolist() == [[3, 1], [4, 2]]
    assert [as_lists(ids) for ids in rows.ids] == [[[3], [4]], [[1], [2]]]
    assert rows.labels_RT.tolist() == [[7, 0], [8, 1]]
    assert rows.weights_R.tolist() == [1, 1]
    assert columns.names == ["b", "a", "d", "c"]
    assert len(rows) == 2


def test_columns_are_read_once() -> None:
    columns = columns_of(DenseFeature(column="a"), labels=(Label("y", True), Label("y", False)), weight="a")
    assert columns.names == ["a", "y"]


# ---- labels and weights


@pytest.mark.parametrize("kind", [*INTEGERS, pa.bool_(), pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_labels(kind: pa.DataType) -> None:
    labels = (Label("y", binary=True), Label("y", binary=False))
    rows = decoded(columns_of(labels=labels), y=pa.array([1, None, 0], pa.uint8()).cast(kind))
    assert rows.labels_RT.dtype == np.float32
    assert np.array_equal(rows.labels_RT, [[1, 1], [math.nan, math.nan], [0, 0]], equal_nan=True)


@pytest.mark.parametrize(
    ("binary", "array", "message"),
    [
        (True, pa.array([1, None, 2, 3]), "row 2: label 'y' is 2; a binary label is 0, 1 or null"),
        (True, pa.array([1, 0.5]), "row 1: label 'y' is 0.5; a binary label is 0, 1 or null"),
        (True, pa.array([-1]), "row 0: label 'y' is -1; a binary label is 0, 1 or null"),
        (True, pa.array([None, math.nan]), f"row 1: label 'y' is nan; a binary label is 0, 1 or null; {UNKNOWN}"),
        (False, pa.array([None, math.nan]), f"row 1: label 'y' is nan; a label is a finite number or null; {UNKNOWN}"),
        (False, pa.array([1, -math.inf]), "row 1: label 'y' is -inf; a label is a finite number or null"),
        (
            False,
            pa.array([1, 1e39]),
            r"row 1: label 'y' is 1e\+39; a label is a finite number or null, up to 3.4e\+38, the largest float32",
        ),
        (True, pa.array([1, 1e-60]), "row 1: label 'y' is 1e-60; a binary label is 0, 1 or null"),
        (True, pa.array([1, 1 + 1e-9]), "row 1: label 'y' is 1.000000001; a binary label is 0, 1 or null"),
        (True, pa.array([0, 1e39]), r"row 1: label 'y' is 1e\+39; a binary label .*"),
    ],
)
def test_a_wrong_label_is_named(binary: bool, array: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}$"):
        decoded(columns_of(labels=(Label("y", binary),)), y=array)


def test_weights() -> None:
    rows = decoded(columns_of(weight="w"), w=pa.array([0, 0.5, 3]))
    assert rows.weights_R.dtype == np.float32
    assert rows.weights_R.tolist() == [0, 0.5, 3]


@pytest.mark.parametrize(
    ("value", "text"), [(-1.0, "-1.0"), (-1e-60, "-1e-60"), (math.nan, "nan"), (math.inf, "inf"), (None, "None")]
)
def test_a_wrong_weight_is_named(value: float | None, text: str) -> None:
    with pytest.raises(DataError, match=f"^row 1: weight 'w' is {text}; a weight is a number ≥ 0$"):
        decoded(columns_of(weight="w"), w=pa.array([1.0, value]))


def test_a_weight_beyond_float32_is_named() -> None:
    with pytest.raises(
        DataError, match=r"^row 0: weight 'w' is 1e\+39; a weight is a number ≥ 0, up to 3.4e\+38, the "
    ):
        decoded(columns_of(weight="w"), w=pa.array([1e39]))


# ---- no rows, no columns


def test_a_row_group_without_rows() -> None:
    columns = columns_of(
        SparseFeature(column="s", table="t", hash=True),
        SparseFeature(column="l", table="t"),
        DenseFeature(column="x"),
        labels=(Label("x", binary=True),),
        weight="x",
    )
    schema = pa.schema([("s", pa.string()), ("l", pa.list_(pa.int64())), ("x", pa.float32())])
    for table in (schema.empty_table(), pa.Table.from_batches([], schema)):
        rows = decode(table, columns, str)
        assert len(rows) == 0
        assert [as_lists(ids) for ids in rows.ids] == [[], []]
        assert (rows.dense_RD.shape, rows.labels_RT.shape) == ((0, 1), (0, 1))


def test_nothing_but_ids() -> None:
    rows = decoded(columns_of(SparseFeature(column="x", table="t")), x=pa.array([1, 2]))
    assert (rows.dense_RD.shape, rows.labels_RT.shape) == ((2, 0), (2, 0))


# ---- types

IDS, HASHED = {"column": "x", "table": "t"}, {"column": "x", "table": "t", "hash": True}
BUCKETS = {"column": "x", "table": "t", "boundaries": (0.0,)}
TIMES = r"set parts = \['hour', 'day_of_week'\] for those of a time"
OTHERS = "write it as an integer or text"
NULLS = "it holds nothing but nulls: write it with its type, or leave it out of the config"
MAPS = "name its keys or values by path, as in column = 'scores.key' with weights = 'scores.value'"
STRUCTS = "name one of its fields by path, as in user.city"
NESTED = "write one list a row: flatten lists of lists"
STRUCT, MAP = pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64())

GOOD_IDS = [
    pa.int8(),
    pa.bool_(),
    pa.list_(pa.uint64()),
    pa.list_(pa.bool_()),
    pa.list_(pa.int64(), 3),
    pa.list_view(pa.int32()),
    pa.large_list_view(pa.int64()),
    pa.dictionary(pa.int32(), pa.int64()),
    pa.dictionary(pa.int8(), pa.float64()),
    pa.bool8(),
    pa.float32(),
    pa.list_(pa.float64()),
    pa.decimal128(20, 0),
    pa.list_(pa.null()),
]
GOOD_TEXTS = [
    pa.string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(16),
    pa.uuid(),
    pa.json_(),
    pa.large_list(pa.string()),
    pa.list_(pa.string_view()),
    pa.list_view(pa.string_view()),
    pa.dictionary(pa.int8(), pa.large_string()),
    pa.list_(pa.dictionary(pa.int8(), pa.string())),
]


@pytest.mark.parametrize("kind", GOOD_IDS, ids=str)
def test_types_of_ids(kind: pa.DataType) -> None:
    for feature in (IDS, HASHED):
        assert columns_of(SparseFeature(**feature)).problem("x", kind) is None
        assert columns_of(SparseFeature(**feature)).problem("y", pa.null()) is None


@pytest.mark.parametrize("kind", GOOD_TEXTS, ids=str)
def test_text_is_hashed(kind: pa.DataType) -> None:
    assert columns_of(SparseFeature(**HASHED)).problem("x", kind) is None
    assert (
        columns_of(SparseFeature(**IDS)).problem("x", kind)
        == f"is {kind}; set hash = true for string ids, or a vocabulary"
    )


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (pa.date32(), TIMES),
        (pa.timestamp("ms"), TIMES),
        (pa.duration("s"), OTHERS),
        (pa.list_(pa.time32("s")), OTHERS),
        (pa.null(), NULLS),
        (MAP, MAPS),
        (STRUCT, STRUCTS),
        (pa.list_(STRUCT), STRUCTS),
        (pa.list_(pa.list_(pa.int64())), NESTED),
        (pa.list_(pa.list_view(pa.int64())), NESTED),
    ],
)
def test_advice_for_what_is_no_id(kind: pa.DataType, advice: str) -> None:
    for feature in (IDS, HASHED):
        found = columns_of(SparseFeature(**feature)).problem("x", kind)
        rule = "an id is a whole number, a boolean or text, or a list of them"
        assert found
        assert re.fullmatch(f"{re.escape(f'is {kind}, but {rule}; ')}{advice}", found)


NUMBERS = [pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.bool_(), pa.decimal128(5, 2), pa.decimal256(50, 1)]
NO_NUMBERS = {
    pa.string(): "write numbers as int64 or float, or make text a sparse feature with hash = true",
    pa.binary_view(): "write numbers as int64 or float, or make text a sparse feature with hash = true",
    pa.list_(pa.int64()): "a dense feature can read lists of numbers of one `size`; a label is one number a row",
    pa.list_(pa.list_(pa.int64())): NESTED,
    pa.list_(STRUCT): STRUCTS,
    pa.null(): NULLS,
    pa.date32(): "a dense feature can read the days `since` another time; a sparse one `parts` of it",
    pa.timestamp("us"): "a dense feature can read the days `since` another time; a sparse one `parts` of it",
    pa.duration("s"): "write it as int64 or float",
    STRUCT: STRUCTS,
    MAP: MAPS,
}


@pytest.mark.parametrize(
    "columns",
    [columns_of(DenseFeature(column="x")), columns_of(labels=(Label("x", True),)), columns_of(weight="x")],
    ids=["dense", "label", "weight"],
)
def test_types_of_numbers(columns: Columns) -> None:
    for kind in NUMBERS:
        assert columns.problem("x", kind) is None
    for kind, advice in NO_NUMBERS.items():
        assert columns.problem("x", kind) == f"is {kind}, not a number; {advice}"
        assert columns.problem("y", kind) is None


def test_types_of_buckets() -> None:
    columns = columns_of(SparseFeature(**BUCKETS))
    for kind in NUMBERS:
        assert columns.problem("x", kind) is None
    assert columns.problem("x", pa.list_(pa.float32())) is None
    for kind, advice in NO_NUMBERS.items():
        if not pa.types.is_list(kind):
            assert columns.problem("x", kind) == f"is {kind}, but boundaries need numbers; {advice}"


def test_a_column_of_two_uses_must_suit_both() -> None:
    columns = columns_of(SparseFeature(column="x", table="t", hash=True), labels=(Label("x", True),))
    found = columns.problem("x", pa.string())
    assert found
    assert found.startswith("is string, not a number; ")


TEXTS = ["a", None, "", "né", "a"]


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_every_form_of_text_meets_the_same_rows(kind: pa.DataType) -> None:
    encoded = [None if text is None else text.encode() for text in TEXTS]
    array = pa.array(TEXTS if kind == pa.string_view() else encoded, kind)
    assert ids_of(array, rows=1000, hash=True) == ids_of(pa.array(TEXTS), rows=1000, hash=True)


def test_bytes_of_a_fixed_width_are_hashed_as_they_are() -> None:
    for kind in (pa.binary(16), pa.uuid()):
        array = pa.array([b"0123456789abcdef", None], kind)
        assert ids_of(array, rows=1000, hash=True) == [hashed("0123456789abcdef"), []]


def test_every_form_of_list_holds_the_same_ids() -> None:
    lists = [[3, 1], None, [], [None, 2]]
    for kind in (pa.list_view(pa.int64()), pa.large_list_view(pa.int8())):
        assert ids_of(pa.array(lists, kind)) == [[3, 1], [], [], [2]]
    texts = [["a", None], None, [], ["b"]]
    for kind in (pa.list_view(pa.string_view()), pa.list_(pa.string_view()), pa.large_list(pa.binary())):
        assert ids_of(pa.array(texts, kind), rows=1000, hash=True) == [hashed("a"), [], [], hashed("b")]


def test_booleans_are_ids() -> None:
    assert ids_of(pa.array([True, None, False]), rows=2) == [[1], [], [0]]
    assert ids_of(pa.array([[True, False], None, [None]]), rows=2) == [[1, 0], [], []]
    assert ids_of(pa.array([1, None, 0], pa.bool8()), rows=2) == [[1], [], [0]]


def test_decimals_are_numbers() -> None:
    for kind in (pa.decimal128(5, 2), pa.decimal256(50, 2), pa.decimal32(5, 2)):
        array = pa.array([1, None, 2]).cast(pa.float64()).cast(kind)
        assert dense_of(array, scale=2) == [0.5, 0, 1]
        assert ids_of(array, boundaries=(0.5, 1.5)) == [[1], [], [2]]
    array = pa.array([1, None, 0]).cast(pa.decimal128(38, 0))
    rows = decoded(columns_of(labels=(Label("y", True),)), y=array)
    assert np.array_equal(rows.labels_RT[:, 0], [1, math.nan, 0], equal_nan=True)


# ---- recipes of labels


def labels_of(array: pa.Array, label: Label) -> list[float]:
    return decoded(columns_of(labels=(label,)), x=array).labels_RT[:, 0].tolist()


def test_a_threshold_makes_a_binary_label() -> None:
    label = Label("x", binary=True, threshold=18.0)
    assert str(labels_of(pa.array([17.9, 18.0, None, 1e300]), label)) == "[0.0, 1.0, nan, 1.0]"
    assert labels_of(pa.array([True, False]), Label("x", binary=True, threshold=1.0)) == [1.0, 0.0]
    with pytest.raises(DataError, match=f"^row 1: label 'x' is nan; a binary label is 0, 1 or null; {UNKNOWN}$"):
        labels_of(pa.array([1.0, math.nan], from_pandas=False), label)


def test_a_regression_may_learn_a_transformed_label() -> None:
    values = [0.0, 3.0, -8.0, None]
    found = labels_of(pa.array(values), Label("x", binary=False, transform="log1p"))
    assert found[:3] == pytest.approx([0.0, math.log(4), -math.log(9)], rel=1e-6)
    assert math.isnan(found[3])
    with pytest.raises(DataError, match=r"^row 0: label 'x' is inf; a label is a finite number or null"):
        labels_of(pa.array([math.inf]), Label("x", binary=False, transform="sqrt"))


def test_a_label_needs_its_weight_in_rows_that_have_it_alone() -> None:
    label = Label("y", True, weight="w", where=parse_condition("tab = 'a'", ""))
    arrays = {"y": pa.array([1, 0, None, 1]), "tab": pa.array(["a", "b", "a", "a"])}
    rows = decoded(columns_of(labels=(label,)), w=pa.array([2.0, None, None, 0.5]), **arrays)
    assert rows.label_weights_T[0] is not None
    assert rows.label_weights_T[0].tolist() == [2.0, 0.0, 0.0, 0.5]
    with pytest.raises(DataError, match="row 3: weight 'w' is None"):
        decoded(columns_of(labels=(label,)), w=pa.array([2.0, None, None, None]), **arrays)
