"""Which columns of a dataset can be looked at, and as what."""

from typing import Literal

import pyarrow as pa

from data.columns.kinds import stored_type
from data.columns.types import is_list, is_number, is_text, is_time, plain_type
from data.errors import DataError
from data.manifest import Manifest

Kind = Literal["integer", "number", "text", "time"]


class Looked(dict[str, tuple[Kind, bool]]):
    """By path: what the values are, and whether a row holds a list of them."""

    left_out: dict[str, str]
    """Other columns, with the reason."""


def columns_to_look_at(manifest: Manifest) -> Looked:
    """All columns of a dataset, and the fields inside them, that hold values or lists of values."""
    looked = Looked()
    looked.left_out = {}
    for name in manifest.column_names:
        _look(manifest, name, looked)
    return looked


def _look(manifest: Manifest, path: str, looked: Looked) -> None:
    try:
        kind = stored_type(manifest, path, as_number=True, may_lack=True)
    except DataError as error:
        looked.left_out[path] = str(error)
        return

    plain = plain_type(kind)
    inner = plain_type(plain.value_type) if is_list(plain) else plain
    if pa.types.is_map(plain):
        for field in ("key", "value"):
            _look(manifest, f"{path}.{field}", looked)
    elif pa.types.is_struct(inner):
        for index in range(inner.num_fields):
            _look(manifest, f"{path}.{inner.field(index).name}", looked)
    elif is_text(inner):
        looked[path] = ("text", is_list(plain))
    elif pa.types.is_integer(inner) or pa.types.is_boolean(inner):
        looked[path] = ("integer", is_list(plain))
    elif is_number(inner):
        looked[path] = ("number", is_list(plain))
    elif is_time(inner) and not is_list(plain):
        looked[path] = ("time", False)
    else:
        looked.left_out[path] = f"is {kind}"
