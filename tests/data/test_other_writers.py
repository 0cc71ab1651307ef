"""Parquet files that others wrote: every value equals what DuckDB reads, or the file is refused in one line.

Of the Apache parquet-testing corpus, where it is at hand (`ADATT_PARQUET_TESTING`), each file's verdict is listed here.
"""

import datetime
import os
import shutil
import zoneinfo
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from data.columns.decode import Columns, Rows, decode
from data.columns.kinds import stored_type
from data.columns.types import is_list, is_number, is_time, plain_type
from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.features import DenseFeature, Features, SparseFeature
from data.manifest import Manifest
from data.pipeline.row_groups import read_row_group
from tests.data.files.write import ROWS

WRITTEN = Path(__file__).parent / "files"
"""Files of writers that cannot be installed beside those of today."""
SEVERAL = 1 << 40
"""Rows of the table: hashed ids are told apart."""
MASK = 2**64 - 1


def paths_of(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The column, and the fields inside it that hold values or lists of values."""
    inner = kind.value_type if is_list(kind) else kind
    if pa.types.is_map(kind):
        yield f"{name}.key", pa.list_(kind.key_type)
        yield f"{name}.value", pa.list_(kind.item_type)
    elif pa.types.is_struct(inner):
        for index in range(inner.num_fields):
            child = inner.field(index)
            child_kind = pa.list_(child.type) if is_list(kind) else child.type
            yield from paths_of(f"{name}.{child.name}", child_kind)
    else:
        yield name, kind


def feature_of(path: str, kind: pa.DataType) -> SparseFeature | DenseFeature:
    """What reads all of a value: numbers as such, times by the minute, all others by their hash."""
    plain = plain_type(kind)
    if is_time(plain):
        return SparseFeature(column=path, table="t", parts=("month", "day", "hour", "minute"))
    if is_number(plain) and not pa.types.is_integer(plain):
        return DenseFeature(column=path, transform="none", mean=0, scale=1)
    element = plain_type(plain.value_type) if is_list(plain) else plain
    is_fraction = is_list(plain) and is_number(element) and not pa.types.is_integer(element)
    return SparseFeature(column=path, table="t", hash=not is_fraction, boundaries=(0.0,) if is_fraction else ())


def mixed(value: Any) -> int:
    """XXH3 of text and bytes, then SplitMix64."""
    if isinstance(value, str | bytes | bytearray):
        value = xxhash.xxh3_64_intdigest(value.encode() if isinstance(value, str) else bytes(value))
    number = (int(value) + 0x9E3779B97F4A7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return (number ^ (number >> 31)) % SEVERAL


def expected_ids(value: Any, feature: SparseFeature) -> list[int]:
    if value is None:
        return []
    if feature.parts:
        if not isinstance(value, datetime.datetime):
            value = datetime.datetime(value.year, value.month, value.day)
        utc = value.astimezone(zoneinfo.ZoneInfo("UTC")) if value.tzinfo else value
        return [utc.month - 1, 12 + utc.day - 1, 43 + utc.hour, 67 + utc.minute]
    values = [entry for entry in (value if isinstance(value, list) else [value]) if entry is not None]
    if feature.boundaries:
        return [int(entry >= 0) for entry in values if entry == entry]
    return [mixed(entry) for entry in values]


def look_up(value: Any, fields: list[str]) -> Any:
    """A field of structs, of lists of them, or of maps, which are lists of pairs."""
    for place, field in enumerate(fields):
        if isinstance(value, list):
            return [look_up(entry, fields[place:]) for entry in value]
        if isinstance(value, tuple):
            value = dict(zip(("key", "value"), value, strict=True))
        value = None if value is None else value[field]
    return value


def assert_same(rows: Rows, feature: SparseFeature | DenseFeature, values: list[Any]) -> None:
    if isinstance(feature, DenseFeature):
        numbers = [
            np.float32(0 if value is None or not np.isfinite(float(value)) else float(value)) for value in values
        ]
        assert rows.dense_RD[:, 0].tolist() == [float(number) for number in numbers]
        return
    jagged = rows.ids[0]
    offsets = np.arange(len(values) + 1) if jagged.offsets is None else jagged.offsets
    found = [jagged.values[begin:end].tolist() for begin, end in pairwise(offsets)]
    assert found == [expected_ids(value, feature) for value in values]


def column_by_duckdb(path: Path | str, name: str) -> list[Any]:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        quoted = '"' + name.replace('"', '""') + '"'
        query = f"select {quoted} from read_parquet(?, binary_as_string = false, hive_partitioning = false)"
        return connection.sql(query, params=[str(path)]).to_arrow_table()[0].to_pylist()


def check_file(path: Path | str) -> dict[str, str]:
    """What became of each column and field: `right`, or the one line that refuses it."""
    manifest = read_manifest(str(path), cache=None)
    verdicts: dict[str, str] = {}
    for name, kind in zip(manifest.schema.names, manifest.schema.types, strict=True):
        for field, field_kind in paths_of(name, kind):
            verdicts[field] = _check_field(manifest, path, name, field, field_kind)
    return verdicts


def _check_field(manifest: Manifest, path: Path | str, name: str, field: str, kind: pa.DataType) -> str:
    feature = feature_of(field, kind)
    sparse = (feature,) if isinstance(feature, SparseFeature) else ()
    dense = (feature,) if isinstance(feature, DenseFeature) else ()
    columns = Columns(Features(sparse=sparse, dense=dense), {"t": SEVERAL}, ())
    problem = columns.problem(field, kind)
    if problem:
        return problem
    try:
        tables = [read_row_group(manifest, group, [field]) for group in range(len(manifest.rows))]
        rows = decode(pa.concat_tables(tables, promote_options="permissive"), columns, lambda row: f"row {row}")
    except DataError as error:
        return str(error)
    inner = field.removeprefix(name).lstrip(".")
    try:
        values = column_by_duckdb(path, name)
    except duckdb.Error:  # it knows less of Parquet than Arrow
        values = None
    except OverflowError:  # years that Python does not know
        return "right, as far as can be told"
    if values is None:
        try:
            values = pq.ParquetFile(path, coerce_int96_timestamp_unit="us").read([name])[name].to_pylist()
        except OverflowError:
            return "right, as far as can be told"
    assert_same(rows, feature, [look_up(value, inner.split(".") if inner else []) for value in values])
    return "right"


# ---- the corpus

CORPUS = Path(
    os.environ.get("ADATT_PARQUET_TESTING", Path(__file__).parents[3] / "shared" / "data" / "parquet_testing")
)
FILES = sorted(path for path in CORPUS.rglob("*.parquet*") if path.is_file())
ENCRYPTED = "Could not read encrypted metadata"
LISTS_OF_LISTS = "write one list a row: flatten lists of lists"
INSIDE_LISTS = "by path"
DAMAGED = "cannot be read"
CHECKSUM = "CRC checksum verification failed"
TIME_OF_DAY = "write it as an integer or text"
REFUSED = {
    "PARQUET-1481.parquet": "Invalid physical column type",
    "column_chunk_key_value_metadata.parquet": "hold no rows",
    "incorrect_map_schema.parquet": "Map keys must be annotated as required",
    "repeated_no_annotation.parquet": "its row groups hold 6 rows, its footer says 0",
    "uniform_encryption.parquet.encrypted": ENCRYPTED,
    "external_key_material_java.parquet.encrypted": ENCRYPTED,
    "encrypt_columns_and_footer.parquet.encrypted": ENCRYPTED,
    "encrypt_columns_and_footer_aad.parquet.encrypted": ENCRYPTED,
    "encrypt_columns_and_footer_bloom_filter.parquet.encrypted": ENCRYPTED,
    "encrypt_columns_and_footer_ctr.parquet.encrypted": ENCRYPTED,
    "encrypt_columns_and_footer_disable_aad_storage.parquet.encrypted": ENCRYPTED,
}
"""Files of which nothing is read, and what is said of them."""
PARTLY = {
    "ARROW-GH-41317.parquet": {"timestamp_us_no_tz": "has 0 rows, but had 3", "time": TIME_OF_DAY},
    "ARROW-GH-41321.parquet": {
        "int64": DAMAGED,
        "large_binary": DAMAGED,
        "fixed_size_list_float64": DAMAGED,
        "map_float32.key": DAMAGED,
        "map_float32.value": DAMAGED,
        "time": TIME_OF_DAY,
    },
    "ARROW-GH-45185.parquet": {"x": DAMAGED},
    "ARROW-GH-47662.parquet": {"flba_field": DAMAGED},
    "ARROW-RS-GH-6229-DICTHEADER.parquet": {
        "nation_key": DAMAGED,
        "name": DAMAGED,
        "region_key": DAMAGED,
        "comment_col": DAMAGED,
    },
    "ARROW-RS-GH-6229-LEVELS.parquet": {"outer.c": DAMAGED},
    "datapage_v1-corrupt-checksum.parquet": {"a": CHECKSUM, "b": CHECKSUM},
    "encrypt_columns_plaintext_footer.parquet.encrypted": {
        "int32_field": TIME_OF_DAY,
        "float_field": DAMAGED,
        "double_field": DAMAGED,
    },
    "int96_from_spark.parquet": {"a": "which microseconds do not reach"},
    "large_string_map.brotli.parquet": {"arr.key": DAMAGED, "arr.value": DAMAGED},  # 2 GB in one row
    "nested_lists.snappy.parquet": {"a": LISTS_OF_LISTS},
    "nested_maps.snappy.parquet": {"a.value": INSIDE_LISTS},
    "nonnullable.impala.parquet": {
        "int_array_array": LISTS_OF_LISTS,
        "int_map_array": INSIDE_LISTS,
        "nested_Struct.c.D": INSIDE_LISTS,
        "nested_Struct.G.value": INSIDE_LISTS,
    },
    "nullable.impala.parquet": {
        "int_array_Array": LISTS_OF_LISTS,
        "int_Map_Array": INSIDE_LISTS,
        "nested_struct.C.d": INSIDE_LISTS,
        "nested_struct.g.value": INSIDE_LISTS,
    },
    "old_list_structure.parquet": {"a": LISTS_OF_LISTS},
    "rle-dict-uncompressed-corrupt-checksum.parquet": {"long_field": CHECKSUM, "binary_field": CHECKSUM},
}
"""Files with columns or fields that are not read, and what is said of these; all others are read right."""
ODD = ("null", "map_list", "map_large_list", "map_fixed_size_list")
"""Begins of names in two files: columns without a type, and lists of lists."""


@pytest.mark.skipif(not FILES, reason=f"needs the Apache parquet-testing corpus in {CORPUS} (ADATT_PARQUET_TESTING)")
def test_the_corpus_is_whole() -> None:
    assert len(FILES) == 81
    assert {path.name for path in FILES} >= {*REFUSED, *PARTLY}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_corpus_is_read_right_or_refused(path: Path) -> None:
    if path.name in REFUSED:
        with pytest.raises(DataError) as error:
            check_file(path)
        assert REFUSED[path.name] in str(error.value)
        assert "\n" not in str(error.value)
        return

    expected = PARTLY.get(path.name, {})
    for field, verdict in check_file(path).items():
        said = expected.get(field) or (expected.get("time") if field.startswith("time") else None)
        if path.name.startswith("ARROW-GH-413") and field.startswith(ODD) and not field.endswith("key"):
            continue
        assert "\n" not in verdict
        assert said in verdict if said and not verdict.startswith("right") else verdict.startswith("right")
        assert not (expected.get(field) and verdict.startswith("right"))


# ---- one dataset of many writers

ARROW = pa.table({name: [row[name] for row in ROWS] for name in ROWS[0]})


def by_duckdb(path: Path) -> None:
    with duckdb.connect() as connection:
        connection.register("rows", ARROW)
        connection.execute(f"copy (select * from rows) to '{path}' (format parquet, row_group_size 4)")


def by_duckdb_otherwise(path: Path) -> None:
    """Narrow, unsigned, decimal, enum."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("rows", ARROW)
        connection.execute(
            "copy (select user::utinyint as user, title::enum('wörd 0', 'wörd 1', 'wörd 2') as title, tags, "
            'price::decimal(9, 2) as price, "at"::timestamptz as "at", is_new::tinyint as is_new, geo from rows) '
            f"to '{path}'"
        )


def by_polars(path: Path) -> None:
    pl.from_arrow(ARROW).write_parquet(path)


def by_polars_otherwise(path: Path) -> None:
    frame = pl.from_arrow(ARROW).with_columns(
        pl.col("title").cast(pl.Categorical), pl.col("user").cast(pl.UInt16), pl.col("at").cast(pl.Datetime("ns"))
    )
    frame.write_parquet(path, compression="snappy", use_pyarrow=False)


def by_pandas(path: Path) -> None:
    """Integers with nulls become floats, and text is large."""
    pd.DataFrame(ROWS).to_parquet(path)


def by_pandas_otherwise(path: Path) -> None:
    frame = pd.DataFrame(ROWS).astype({"user": "Int32", "title": "category", "price": "Float32"})
    frame.to_parquet(path, index=False)


def by_spark(path: Path) -> None:
    """As Spark 2 wrote: INT96, lists of the old layout, a checksum beside the file."""
    pq.write_table(ARROW, path, use_deprecated_int96_timestamps=True, use_compliant_nested_type=False, flavor="spark")
    (path.parent / f".{path.name}.crc").write_bytes(b"crc")
    (path.parent / "_SUCCESS").touch()


def by_pyarrow(path: Path) -> None:
    """Views, large lists and bytes."""
    kinds = {
        "user": pa.decimal128(20, 0),
        "title": pa.binary(),
        "tags": pa.large_list(pa.large_string()),
        "price": pa.float16(),
        "at": pa.timestamp("ms", "America/New_York"),
        "is_new": pa.float64(),
    }
    columns = {name: ARROW[name] for name in ARROW.column_names}
    columns["is_new"] = columns["is_new"].cast(pa.int8())
    cast = {name: columns[name].cast(kind) for name, kind in kinds.items()}
    pq.write_table(pa.table(columns | cast), path, version="1.0")


def by_pandas_2(path: Path) -> None:
    shutil.copy(WRITTEN / "pandas_2.parquet", path)


def by_pandas_2_otherwise(path: Path) -> None:
    """Integers with nulls, as the index; categories, booleans with nulls."""
    shutil.copy(WRITTEN / "pandas_2_index.parquet", path)


WRITERS: list[Callable[[Path], None]] = [
    by_duckdb,
    by_duckdb_otherwise,
    by_polars,
    by_polars_otherwise,
    by_pandas,
    by_pandas_otherwise,
    by_pandas_2,
    by_pandas_2_otherwise,
    by_spark,
    by_pyarrow,
]


def test_files_of_many_writers_are_one_dataset(tmp_path: Path) -> None:
    for number, write in enumerate(WRITERS):
        write(tmp_path / f"part-{number}.parquet")
    manifest = read_manifest(str(tmp_path), cache=None)
    assert manifest.unread == ()

    features = {
        "user": SparseFeature(column="user", table="t", hash=True),
        "title": SparseFeature(column="title", table="t", hash=True),
        "tags": SparseFeature(column="tags", table="t", hash=True),
        "at": SparseFeature(column="at", table="t", parts=("month", "day", "hour", "minute")),
        "geo.city": SparseFeature(column="geo.city", table="t", hash=True),
        "price": DenseFeature(column="price", transform="none", mean=0, scale=1),
        "is_new": DenseFeature(column="is_new", transform="none", mean=0, scale=1),
        "geo.zip": DenseFeature(column="geo.zip", transform="none", mean=0, scale=1),
    }
    for path, feature in features.items():
        sparse = (feature,) if isinstance(feature, SparseFeature) else ()
        dense = (feature,) if isinstance(feature, DenseFeature) else ()
        columns = Columns(Features(sparse=sparse, dense=dense), {"t": SEVERAL}, ())
        assert columns.problem(path, stored_type(manifest, path, as_number=True)) is None
        for file in range(len(WRITERS)):
            groups = np.flatnonzero(manifest.file == file)
            tables = [read_row_group(manifest, group, [path]) for group in groups]
            rows = decode(pa.concat_tables(tables), columns, lambda row: f"row {row}")
            assert_same(rows, feature, [look_up(row, path.split(".")) for row in ROWS])


@pytest.mark.parametrize("name", ["fastparquet.parquet", "fastparquet_int96.parquet"])
def test_files_of_fastparquet_are_read_right(name: str) -> None:
    assert set(check_file(WRITTEN / name).values()) == {"right"}
    rows = [{key: row[key] for key in ("user", "price")} for row in ROWS]
    assert pq.read_table(WRITTEN / name, columns=["user", "price"]).to_pylist() == rows
