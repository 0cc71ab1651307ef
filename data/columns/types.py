"""Types of columns: which are of use for what, and the advice for those that are not.

What Arrow has several forms of (text and bytes, lists, dictionaries of numbers, extensions) is brought into one first.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from data.manifest import Manifest

Where = Callable[[int], str]
"""Describes row i of a table for a message: `row 12 of row group 3 of train/day_07.parquet`."""
_IDS = "an id is a whole number, a boolean or text, or a list of them"


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that values are decoded as: the plainest that holds the same. Elements of lists stay as they are."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_boolean(kind):
        return pa.uint8()
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_binary_view(kind):
        return pa.large_binary()

    is_encoded = types.is_dictionary(kind) and not is_text(kind)
    return plain_type(kind.value_type) if is_encoded else kind


def as_plain(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The same values in their plain type."""
    kind = plain_type(values.type)
    return values if kind == values.type else values.cast(kind)


def as_float64(values: pa.Array) -> pa.Array:
    """Numbers in float64, each to the nearest."""
    if types.is_decimal(values.type):
        # Arrow's own cast multiplies by a rounded power of ten: a price of 22.88 would be another in each type.
        values = values.cast(pa.string())
    return values.cast(pa.float64(), safe=False)


def spread(values: pa.Array, is_known: NDArray[np.bool_]) -> pa.Array:
    """The values where they are known, in order, and null elsewhere."""
    places = np.cumsum(is_known) - 1
    return values.take(pa.array(places, mask=~is_known))


def is_list(kind: pa.DataType) -> bool:
    """Whether a row holds several values."""
    is_view = types.is_list_view(kind) or types.is_large_list_view(kind)
    is_of_any_length = types.is_list(kind) or types.is_large_list(kind)
    return bool(is_of_any_length or types.is_fixed_size_list(kind) or is_view)


def element_type(kind: pa.DataType) -> pa.DataType:
    """The plain type of single values, in lists or not."""
    plain = plain_type(kind)
    return plain_type(plain.value_type) if is_list(plain) else plain


def is_text(kind: pa.DataType) -> bool:
    """Whether values are hashed by their bytes: text, or bytes that no one has declared to be text."""
    kind = kind.value_type if types.is_dictionary(kind) else kind
    is_string = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return bool(is_string or is_bytes or types.is_binary_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Of a plain type: whether it is read as a number."""
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def is_time(kind: pa.DataType) -> bool:
    """Whether values are instants or days."""
    return bool(types.is_timestamp(kind) or types.is_date(kind))


def problem_as_ids(kind: pa.DataType, any_id: bool) -> str | None:
    """What is wrong with a column of this type as ids; None: nothing. `any_id`: these need not be rows of a table."""
    element = element_type(kind)
    if is_text(element):
        return None if any_id else f"is {kind}; set hash = true for string ids, or a vocabulary"
    if is_number(element) or (types.is_null(element) and is_list(plain_type(kind))):
        return None
    return f"is {kind}, but {_IDS}; {_advice_for_ids(element)}"


def problem_as_crossed(kind: pa.DataType) -> str | None:
    """What is wrong with a column of this type in a cross; None: nothing."""
    if is_list(plain_type(kind)) or types.is_map(kind):
        return f"is {kind}, but a cross is of one id a row"
    return problem_as_ids(kind, any_id=True)


def problem_as_weights(kind: pa.DataType) -> str | None:
    """What is wrong with a column of this type as the weights of ids; None: nothing."""
    plain = plain_type(kind)
    if is_list(plain) and is_number(plain_type(plain.value_type)):
        return None
    return f"is {kind}, but weights are a list of numbers, one for each id"


def problem_as_time(kind: pa.DataType) -> str | None:
    """What is wrong with a column of this type where times are needed; None: nothing."""
    return None if is_time(plain_type(kind)) else f"is {kind}, but `parts` and `since` need timestamps or dates"


def problem_as_vectors(kind: pa.DataType, size: int) -> str | None:
    """What is wrong with a column of this type as `size` dense inputs; None: nothing."""
    plain = plain_type(kind)
    if not is_list(plain) or not is_number(plain_type(plain.value_type)):
        return f"is {kind}, but a feature with a size needs a list of numbers"
    if types.is_fixed_size_list(plain) and plain.list_size != size:
        return f"is {kind}, but its feature has size = {size}; write {plain.list_size}"
    return None


def problem_as_buckets(kind: pa.DataType) -> str | None:
    """What is wrong with a column of this type where it has boundaries; None: nothing."""
    element = element_type(kind)
    return None if is_number(element) else f"is {kind}, but boundaries need numbers; {_advice_for_numbers(element)}"


def problem_as_number(kind: pa.DataType) -> str | None:
    """What is wrong with a column of this type as a dense feature, label or weight; None: nothing."""
    plain = plain_type(kind)
    return None if is_number(plain) else f"is {kind}, not a number; {_advice_for_numbers(plain)}"


def _advice_for_ids(kind: pa.DataType) -> str:
    if is_time(kind):
        return "set parts = ['hour', 'day_of_week'] for those of a time"
    return _advice_for_nested(kind) or "write it as an integer or text"


def _advice_for_numbers(kind: pa.DataType) -> str:
    if is_time(kind):
        return "a dense feature can read the days `since` another time; a sparse one `parts` of it"
    if is_text(kind):
        return "write numbers as int64 or float, or make text a sparse feature with hash = true"
    if is_list(kind) and not types.is_nested(kind.value_type):  # Arrow calls lists nested, too
        size = f" = {kind.list_size}" if types.is_fixed_size_list(kind) else ""
        return f"a dense feature can read lists of numbers of one `size`{size}; a label is one number a row"

    return _advice_for_nested(kind) or "write it as int64 or float"


def _advice_for_nested(kind: pa.DataType) -> str | None:
    if types.is_null(kind):
        return "it holds nothing but nulls: write it with its type, or leave it out of the config"
    if types.is_map(kind):
        return "name its keys or values by path, as in column = 'scores.key' with weights = 'scores.value'"
    if types.is_struct(kind) or (is_list(kind) and types.is_struct(kind.value_type)):
        return "name one of its fields by path, as in user.city"
    if is_list(kind):
        return "write one list a row: flatten lists of lists"

    return None


def columns_there(manifest: Manifest, name: str) -> str:
    """What to add to the message that a dataset has no column `name`: those that it has, and where the name is known
    from.
    """
    text = f"it has {', '.join(manifest.column_names)}"
    folders = {folder for file in manifest.files for folder in file.split("/")[:-1]}
    keys = sorted(folder for folder in folders if folder.startswith(f"{name}="))
    if keys:
        return f"{text}; a folder is called {keys[0]!r}, but not all files lie in one with such a key"
    if any(part.startswith(f"{name}=") for part in manifest.root.split("/")):
        return f"{text}; {name!r} is a key of a folder above: name the one that holds it, with `where` to choose"

    column = name.partition(".")[0]
    index = manifest.schema.get_field_index(column)
    if index >= 0 and types.is_nested(manifest.schema.field(index).type):
        return f"{text}; {column!r} is {manifest.schema.field(index).type}"
    return text
