"""Which columns of a dataset can be looked at, and as what."""

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from data.columns.kinds import stored_type
from data.columns.types import element_type, is_list, is_number, is_text, is_time, plain_type
from data.discovery.fields import types_named
from data.errors import DataError
from data.manifest import Manifest

Kind = Literal["integer", "number", "text", "time"]


class Looked(dict[str, tuple[Kind, bool]]):
    """By path: what the values are, and whether a row holds a list of them."""

    left_out: dict[str, str]
    """Other columns, with the reason."""


def columns_to_look_at(manifest: Manifest, names: Sequence[str] | None = None) -> Looked:
    """These columns of a dataset, or all, and the fields inside them, that hold values or lists of values."""
    looked = Looked()
    looked.left_out = {}
    for name in manifest.column_names if names is None else names:
        _look(manifest, name, looked)
    return looked


def _look(manifest: Manifest, path: str, looked: Looked) -> None:
    types = _types(manifest, path)
    fields = list(dict.fromkeys(field for kind in types for field in _fields(kind)))
    if fields:  # which the files need not all have
        for field in fields:
            _look(manifest, f"{path}.{field}", looked)
        return

    try:
        kind = stored_type(manifest, path, as_number=True, may_lack=True)
    except DataError as error:
        looked.left_out[path] = str(error)
        return

    plain = plain_type(kind)
    inner = element_type(kind)
    if is_text(inner):
        looked[path] = ("text", is_list(plain))
    elif _is_whole(inner) and all(_is_whole(element_type(other)) for other in types):
        looked[path] = ("integer", is_list(plain))
    elif is_number(inner):
        looked[path] = ("number", is_list(plain))
    elif is_time(inner) and not is_list(plain):
        looked[path] = ("time", False)
    else:
        looked.left_out[path] = f"is {kind}"


def _fields(kind: pa.DataType) -> list[str]:
    """Of a struct, of a list of structs, or of a map."""
    plain = plain_type(kind)
    if pa.types.is_map(plain):
        return ["key", "value"]
    inner = plain_type(plain.value_type) if is_list(plain) else plain
    return [inner.field(index).name for index in range(inner.num_fields)] if pa.types.is_struct(inner) else []


def _types(manifest: Manifest, path: str) -> list[pa.DataType]:
    """Of a column in all files that have it."""
    return [kind for _, schema in manifest.schemas for kind in types_named(schema, path)]


def _is_whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))
