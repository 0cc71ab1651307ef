"""Columns by their names, and fields inside them by paths: `user.geo.city`, `items.id` of a list of structs,
`scores.key` and `scores.value` of a map.

A column that is itself called `user.geo.city` comes before the path.
"""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

_OF_MAPS = ("key", "value")


def types_named(schema: pa.Schema, name: str) -> list[pa.DataType]:
    """The types of what a file calls `name`: one, none, or several where columns share the name."""
    columns = schema.get_all_field_indices(name)
    if columns:
        return [schema.field(index).type for index in columns]

    found = _find(schema, name)
    if found is None:
        return []
    kind, fields = found
    for field in fields:
        kind = _field_type(kind, field)
    return [kind]


def pick(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """The values of what the table calls `name`; None if there is no such column or path."""
    if name in table.column_names:
        return table[name]

    found = _find(table.schema, name)
    if found is None:
        return None
    fields = found[1]
    column = table[name.removesuffix("." + ".".join(fields))]
    for field in fields:
        chunks = [field_values(chunk, field) for chunk in column.chunks]
        column = pa.chunked_array(chunks, _field_type(column.type, field))
    return column


def parquet_names(schema: pa.Schema, leaves: list[str], name: str) -> list[str]:
    """What to ask a Parquet file for, to read `name`: only those of its `leaves` that lie below the field.

    `leaves`: the paths of all columns of the file, as Parquet writes them, in order.
    """
    found = None if name in schema.names else _find(schema, name)
    if found is None:
        return [name]

    kind, fields = found
    column = name.removesuffix("." + ".".join(fields))
    index = schema.get_field_index(column)
    begin = sum(_num_leaves(schema.field(before).type) for before in range(index))
    for field in fields:
        inner = _elements(kind)
        if types.is_map(kind) or types.is_null(kind):
            break  # without its keys a map would be read as a list
        place = inner.get_field_index(field)
        begin += sum(_num_leaves(inner.field(before).type) for before in range(place))
        kind = inner.field(place).type
    return leaves[begin : begin + _num_leaves(kind)]


def _find(schema: pa.Schema, name: str) -> tuple[pa.DataType, list[str]] | None:
    """The type of the column in which a path begins, and the fields from there on; None if it leads nowhere."""
    for column, fields in _cuts(name):
        index = schema.get_field_index(column)
        if index < 0:
            continue
        kind: pa.DataType | None = schema.field(index).type
        for field in fields:
            kind = None if kind is None else _field_type(kind, field)
        if kind is not None:
            return schema.field(index).type, fields
    return None


def _cuts(name: str) -> Iterator[tuple[str, list[str]]]:
    """The ways to read a path as a column and fields, the longest column first: names may hold dots."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:count]), parts[count:]


def _field_type(kind: pa.DataType, field: str) -> pa.DataType | None:
    """The type of a field of a struct, of a list of structs, or of a map; None if it has no such field.

    A column of nulls alone has no type, and its fields have none either.
    """
    if types.is_null(kind):
        return kind
    if types.is_map(kind):
        return pa.list_(kind.key_type if field == "key" else kind.item_type) if field in _OF_MAPS else None

    inner = _elements(kind)
    if not types.is_struct(inner) or inner.get_field_index(field) < 0:
        return None
    child = inner.field(inner.get_field_index(field)).type
    return child if types.is_struct(kind) else _list_of(kind, child)


def field_values(array: pa.Array, field: str) -> pa.Array:
    """The values of a field of structs, of lists of structs, or of maps; null where what holds it is null."""
    kind = array.type
    if types.is_null(kind):
        return array
    if types.is_struct(kind):
        return pc.struct_field(array, field)
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        array = array.cast(pa.large_list(kind.value_type))

    if types.is_map(kind):
        values = array.keys if field == "key" else array.items
    else:
        values = pc.struct_field(array.values, field)
    count = 1 if types.is_fixed_size_list(kind) else 2  # validity, then offsets
    buffers = array.buffers()[:count]
    return pa.Array.from_buffers(_list_of(kind, values.type), len(array), buffers, -1, array.offset, [values])


def _elements(kind: pa.DataType) -> pa.DataType:
    """What a list holds; the type itself if it is no list."""
    is_plain = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    is_view = types.is_list_view(kind) or types.is_large_list_view(kind)
    return kind.value_type if is_plain or is_view else kind


def _list_of(kind: pa.DataType, values: pa.DataType) -> pa.DataType:
    """A list like `kind`, of other values."""
    if types.is_fixed_size_list(kind):
        return pa.list_(values, kind.list_size)
    is_long = types.is_large_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind)
    return pa.large_list(values) if is_long else pa.list_(values)


def _num_leaves(kind: pa.DataType) -> int:
    """Parquet columns that hold values of this type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _num_leaves(kind.storage_type)
    if types.is_struct(kind):
        return sum(_num_leaves(kind.field(index).type) for index in range(kind.num_fields))
    if types.is_map(kind):
        return _num_leaves(kind.key_type) + _num_leaves(kind.item_type)

    inner = _elements(kind)
    return 1 if inner == kind else _num_leaves(inner)
