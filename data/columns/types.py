"""Types of columns: which are of use for what, and the advice for those that are not.

What Arrow has several forms of (text and bytes, lists, dictionaries of numbers, extensions) is brought into one first.
"""

from collections.abc import Callable

import pyarrow as pa
from pyarrow import types

from data.manifest import Manifest

Where = Callable[[int], str]
"""Describes row i of a table for a message: `row 12 of row group 3 of train/day_07.parquet`."""
_IDS = "an id is an integer, a boolean or text, or a list of them"


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


def problem_as_ids(kind: pa.DataType, hashed: bool) -> str | None:
    """What is wrong with a column of this type as ids; None: nothing."""
    element = element_type(kind)
    if is_text(element):
        return None if hashed else f"is {kind}; set hash = true for string ids"
    if types.is_integer(element):
        return None
    return f"is {kind}, but {_IDS}; {_advice_for_ids(element)}"


def problem_as_buckets(kind: pa.DataType) -> str | None:
    """What is wrong with a column of this type where it has boundaries; None: nothing."""
    plain = plain_type(kind)
    return None if is_number(plain) else f"is {kind}, but boundaries need a number; {_advice_for_numbers(plain)}"


def problem_as_number(kind: pa.DataType) -> str | None:
    """What is wrong with a column of this type as a dense feature, label or weight; None: nothing."""
    plain = plain_type(kind)
    return None if is_number(plain) else f"is {kind}, not a number; {_advice_for_numbers(plain)}"


def _advice_for_ids(kind: pa.DataType) -> str:
    if types.is_floating(kind):
        return (
            "write whole numbers as int64 (pandas makes floats of integers with nulls: astype('Int64') keeps them), or "
            "give a float column `boundaries`"
        )
    if types.is_decimal(kind):
        return "write whole numbers as int64, or give the column `boundaries`"
    if types.is_temporal(kind):
        return "write what counts of a time as an integer, such as the hour, the weekday or the day's number"

    return _advice_for_nested(kind) or "write it as an integer or text"


def _advice_for_numbers(kind: pa.DataType) -> str:
    if types.is_temporal(kind):
        return "write a time as a number of what counts, such as the hour or the age in seconds"
    if is_text(kind):
        return "write numbers as int64 or float, or make text a sparse feature with hash = true"
    if is_list(kind) and not types.is_nested(kind.value_type):  # Arrow calls lists nested, too
        return "write one number a row, each element of a list as a column of its own"

    return _advice_for_nested(kind) or "write it as int64 or float"


def _advice_for_nested(kind: pa.DataType) -> str | None:
    if types.is_null(kind):
        return "it holds nothing but nulls: write it with its type, or leave it out of the config"
    if types.is_map(kind):
        return "write the keys of a map, or its values, as a list column of their own"
    if types.is_struct(kind):
        return "write the fields of a struct as columns of their own"
    if is_list(kind) and types.is_struct(kind.value_type):
        return "write the fields of a struct as columns of their own"
    if is_list(kind):
        return "write one list a row: flatten lists of lists"

    return None


def missing_column_hint(manifest: Manifest, name: str) -> str:
    """What to add to the message that a dataset has no such column: where the name is known from."""
    folders: set[str] = set()
    for file in manifest.files:
        folders.update(file.split("/")[:-1])

    keys = [folder for folder in folders if folder.startswith(f"{name}=")]
    if keys:
        return (
            f"; a folder is called {min(keys)!r}, but the keys of folders are not read as columns: "
            f"write {name!r} into the files too"
        )

    struct = name.partition(".")[0]
    if struct in manifest.schema.names and types.is_nested(manifest.schema.field(struct).type):
        return f"; {struct!r} is {manifest.schema.field(struct).type}: write its fields as columns of their own"

    return ""
