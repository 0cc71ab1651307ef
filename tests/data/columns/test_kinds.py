"""What values are, however they are stored: which differences between files and datasets matter."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.columns.decode import Columns, decode
from data.columns.kinds import alike, common_type, is_groupable, kind_of, stored_type
from data.columns.numbers import Label
from data.columns.types import as_float64
from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.features import DenseFeature, Features, SparseFeature
from data.manifest import Manifest
from data.pipeline.row_groups import read_row_group
from data.storage.manifest_file import load_manifest, save_manifest

TEXT_LIST = pa.list_(pa.string())
KINDS = {
    "integer": [pa.int8(), pa.int64(), pa.uint8(), pa.uint64(), pa.bool_(), pa.dictionary(pa.int32(), pa.int16())],
    "number": [pa.float16(), pa.float32(), pa.float64()],
    "text": [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary_view(),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    "list of integer": [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.uint64(), 3)],
    "list of number": [pa.list_(pa.float32()), pa.large_list(pa.float64())],
    "list of text": [TEXT_LIST, pa.large_list(pa.string_view()), pa.list_(pa.dictionary(pa.int8(), pa.string()))],
    "time": [pa.timestamp("ms"), pa.timestamp("ns", "Asia/Shanghai"), pa.date32(), pa.date64()],
}
ALL_TYPES = [(kind, stored) for kind, types in KINDS.items() for stored in types]


def test_widths_and_encodings_are_no_kinds() -> None:
    for kind, stored in ALL_TYPES:
        assert kind_of(stored) == kind
        for other_kind, other in ALL_TYPES:
            assert alike(stored, other, as_number=False) == (kind == other_kind)
            same_number = kind.replace("integer", "number") == other_kind.replace("integer", "number")
            assert alike(stored, other, as_number=True) == same_number
        assert alike(stored, pa.null(), as_number=False)
        assert alike(stored, pa.list_(pa.null()), as_number=False) == kind.startswith("list")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Manifest]:
    def write_files(*columns: dict[str, pa.Array]) -> Manifest:
        for number, arrays in enumerate(columns):
            pq.write_table(pa.table(arrays), tmp_path / f"part-{number}.parquet")
        return read_manifest(str(tmp_path), cache=None)

    return write_files


def test_files_of_a_dataset_may_store_values_in_several_ways(write: Callable[..., Manifest], tmp_path: Path) -> None:
    """All rows are decoded alike, and the manifest that a run keeps knows of all of them."""
    ids, words, lists = [5, None, 7], ["a", None, "b"], [["a", "b"], None, []]
    files = [
        {"id": pa.array(ids, kind), "word": pa.array(words, word), "tags": pa.array(lists, tags), "age": age}
        for kind, word, tags, age in (
            (pa.int64(), pa.string(), TEXT_LIST, pa.array([1, 2, 3], pa.float32())),
            (pa.uint8(), pa.large_string(), pa.large_list(pa.string_view()), pa.array([1, 2, 3], pa.int8())),
            (pa.int16(), pa.string_view(), pa.list_(pa.string_view()), pa.array([1, 2, 3], pa.float64())),
        )
    ]
    encoded = {"id": files[0]["id"], "word": pa.array(words).dictionary_encode(), "tags": files[0]["tags"]}
    manifest = write(*files, encoded | {"age": pa.array([1, 2, 3])})
    sparse = tuple(SparseFeature(column=name, table="t", hash=True) for name in ("id", "word", "tags"))
    columns = Columns(Features(sparse=sparse, dense=(DenseFeature(column="age"),)), {"t": 1000}, ())
    tables = [read_row_group(manifest, group, columns.names) for group in range(4)]
    found = [decode(table.take(pa.array([0, 2, 1])), columns, str) for table in tables]
    for rows in found[1:]:
        assert [ids.values.tolist() for ids in rows.ids] == [ids.values.tolist() for ids in found[0].ids]
        assert rows.dense_RD.tolist() == found[0].dense_RD.tolist()
    save_manifest(manifest, tmp_path / "kept")
    kept = load_manifest(tmp_path / "kept")
    assert [str(path) for path, _ in kept.schemas] == [f"{tmp_path}/part-{number}.parquet" for number in range(4)]
    assert kept.schemas == manifest.schemas


def test_files_that_hold_other_kinds_are_named(write: Callable[..., Manifest], tmp_path: Path) -> None:
    manifest = write({"x": pa.array([1])}, {"x": pa.array([2], pa.int8())}, {"x": pa.array([1.5])})
    assert stored_type(manifest, "x", as_number=True) == pa.int64()
    expected = rf"^{tmp_path}/part-2.parquet: column 'x' is number \(double\), but integer \(int64\) in .*part-0"
    with pytest.raises(DataError, match=expected):
        stored_type(manifest, "x", as_number=False)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_file_that_lacks_a_column_is_named(write: Callable[..., Manifest], tmp_path: Path, lacking: int) -> None:
    files = [{"y": pa.array([1]), "x": pa.array([1])}, {"y": pa.array([1]), "x": pa.array([1])}]
    del files[lacking]["x"]
    manifest = write(*files)
    expected = rf"^{tmp_path}/part-{lacking}.parquet: no column 'x', but {tmp_path}/part-{1 - lacking}.parquet has"
    for ask in (lambda: stored_type(manifest, "x", as_number=True), lambda: common_type(manifest, "x")):
        with pytest.raises(DataError, match=expected):
            ask()
    assert stored_type(manifest, "y", as_number=False) == pa.int64()


def test_a_column_of_nulls_fits_every_other(write: Callable[..., Manifest]) -> None:
    """Writers give a column that is null in a whole file no type."""
    for values, kind in (([["a"]], "list of text"), (["a"], "text"), ([3], "integer")):
        manifest = write({"x": pa.nulls(2)}, {"x": pa.array(values)})
        assert kind_of(stored_type(manifest, "x", as_number=False)) == kind
        sparse = (SparseFeature(column="x", table="t", hash=True),)
        columns = Columns(Features(sparse=sparse), {"t": 9}, ())
        assert decode(read_row_group(manifest, 0, ["x"]), columns, str).ids[0].offsets.tolist() == [0, 0, 0]
    numbers = Columns(Features(dense=(DenseFeature(column="x"),)), {}, (Label("x", binary=True),))
    assert str(decode(read_row_group(manifest, 0, ["x"]), numbers, str).labels_RT.tolist()) == "[[nan], [nan]]"


def test_a_file_without_rows_does_not_count(write: Callable[..., Manifest]) -> None:
    manifest = write({"x": pa.array([], pa.string())}, {"x": pa.array([1])}, {"z": pa.array([], pa.string())})
    assert stored_type(manifest, "x", as_number=False) == pa.int64()


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.bool_(), pa.int16(), pa.int16()),
        (pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.string(), pa.string_view(), pa.large_string()),
        (pa.string_view(), pa.string_view(), pa.string_view()),
        (pa.list_(pa.int8()), pa.large_list(pa.int32()), pa.large_list(pa.int32())),
        (pa.int8(), pa.string(), None),
        (pa.list_(pa.int8()), pa.int8(), None),
    ],
)
def test_a_common_type_holds_the_values_of_all_files(
    write: Callable[..., Manifest], one: pa.DataType, other: pa.DataType, common: pa.DataType | None
) -> None:
    manifest = write({"x": pa.array([None], one)}, {"x": pa.array([None], other)})
    if common is not None:
        assert common_type(manifest, "x") == common
    else:
        with pytest.raises(
            DataError, match=r"part-1.parquet: column 'x' is .*, but .* in .*part-0.parquet; write both"
        ):
            common_type(manifest, "x")


@pytest.mark.parametrize("kind", [pa.date32(), pa.list_(pa.int64()), pa.decimal128(4, 2), pa.binary()])
def test_other_types_are_no_groups(kind: pa.DataType) -> None:
    assert not is_groupable(kind)


@pytest.mark.parametrize("kind", [pa.decimal32(9, 2), pa.decimal64(18, 3), pa.decimal128(20, 4), pa.decimal256(40, 6)])
def test_a_decimal_is_the_nearest_float_in_every_type(kind: pa.DataType) -> None:
    prices = pa.array([Decimal(cents) / 100 for cents in range(2280, 2300)], pa.decimal128(9, 2)).cast(kind)
    assert as_float64(prices).to_pylist() == [cents / 100 for cents in range(2280, 2300)]
