"""What the values of a column are, however they are stored.

A model looks ids up by value, so a dataset whose ids are text meets other rows of the tables than one whose ids are
integers, in silence. Widths and encodings make no such difference.
"""

import pyarrow as pa

from data.columns.types import is_list, is_number, is_text, is_time, plain_type
from data.discovery.fields import types_named
from data.errors import DataError
from data.manifest import Manifest


def kind_of(stored: pa.DataType) -> str:
    """`integer`, `number`, `text`, `time`, `list of text` …; the type's own name for what no feature reads.

    Bytes are text: both are hashed by their bytes, and writers differ in which of them they declare.
    """
    plain = plain_type(stored)
    if is_list(plain):
        return f"list of {kind_of(plain.value_type)}"
    if pa.types.is_dictionary(plain):
        return kind_of(plain.value_type)
    if pa.types.is_null(plain):
        return "null"
    if pa.types.is_integer(plain):
        return "integer"
    if is_number(plain):
        return "number"

    if is_time(plain):
        return "time"

    return "text" if is_text(plain) else str(plain)


def alike(one: pa.DataType, other: pa.DataType, *, as_number: bool) -> bool:
    """Whether equal values of two types mean the same; `as_number`: 3 is 3.0. Nulls fit everything."""
    kinds = [kind_of(one), kind_of(other)]
    if as_number:
        kinds = [kind.replace("integer", "number") for kind in kinds]
    if kinds[0] == kinds[1] or "null" in kinds:
        return True
    return "list of null" in kinds and all(kind.startswith("list of ") for kind in kinds)


def is_groupable(kind: pa.DataType) -> bool:
    """Whether a column of this type has values that rows can be grouped by: numbers, booleans, text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(is_number or is_text or pa.types.is_boolean(kind))


def stored_type(manifest: Manifest, name: str, *, as_number: bool, may_lack: bool = False) -> pa.DataType:
    """The type of a column of a dataset; raises DataError if its files hold values of different kinds in it.

    Of several types that are alike, the first file's. A column of nulls alone fits every other, and so does a file that
    lacks the column where it `may_lack` it.
    """
    found = _types_by_file(manifest, name, may_lack=may_lack)
    with_values = [(stored, path) for stored, path in found if not pa.types.is_null(stored)]
    first, first_path = (with_values or found)[0]

    for other, path in with_values:
        if not alike(first, other, as_number=as_number):
            here = f"{kind_of(other)} ({other})"
            there = f"{kind_of(first)} ({first})"
            raise DataError(f"{path}: column {name!r} is {here}, but {there} in {first_path}; write both alike")

    return readable(first)


def common_type(manifest: Manifest, name: str) -> pa.DataType:
    """A type that holds a column's values of all files as they are; raises DataError if there is none."""
    (common, first_path), *others = _types_by_file(manifest, name)
    for other, path in others:
        try:
            common = _wider(common, other)
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: column {name!r} is {other}, but {common} in {first_path}; write both alike"
            ) from error

    return common


def readable(stored: pa.DataType) -> pa.DataType:
    """The type that a column is given when it is read: Arrow cannot pick rows of a view."""
    if pa.types.is_string_view(stored):
        return pa.large_string()
    if pa.types.is_binary_view(stored):
        return pa.large_binary()
    if pa.types.is_list(stored):
        return pa.list_(readable(stored.value_type))
    if pa.types.is_large_list(stored):
        return pa.large_list(readable(stored.value_type))
    if pa.types.is_fixed_size_list(stored):
        return pa.list_(readable(stored.value_type), stored.list_size)

    return stored


def _types_by_file(manifest: Manifest, name: str, *, may_lack: bool = False) -> list[tuple[pa.DataType, str]]:
    """A column's types, each with the first file that stores it so; null is that of a file which lacks it.

    Raises DataError if a file has two of that name, or lacks it although it may not.
    """
    found = []
    for path, schema in manifest.schemas:
        types = types_named(schema, name)
        if len(types) > 1:
            raise DataError(f"{path}: two columns are called {name!r}; rename one")
        if not types and name in manifest.keys:
            types = [manifest.keys[name].type]
        if not types and not may_lack:
            others = [other for other, entry in manifest.schemas if types_named(entry, name)]
            where = f", but {others[0]} has" if others else ""
            raise DataError(
                f"{path}: no column {name!r}{where}; write all files alike, or set missing = 'null' for its feature"
            )

        found.append((types[0] if types else pa.null(), path))

    return found


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """A type for values of both; ArrowException where there is none."""
    if one == other:
        return one
    plain = [pa.schema([("", _decoded(entry))]) for entry in (one, other)]
    return pa.unify_schemas(plain, promote_options="permissive").field(0).type


def _decoded(stored: pa.DataType) -> pa.DataType:
    if pa.types.is_boolean(stored):
        return pa.int8()
    return _decoded(stored.value_type) if pa.types.is_dictionary(stored) else readable(stored)
