"""Keys of Hive partitions: `logs/dt=2022-04-25/tab=3/part-0.parquet` lies in one, and its rows have `dt` and `tab`.

A key is a whole number, a date (2022-04-25) or text, whichever all of its values in a dataset are. Values are
percent-decoded, and `__HIVE_DEFAULT_PARTITION__` is null, as Hive, Spark and DuckDB write them.
"""

import re
from collections.abc import Iterable
from datetime import date
from urllib.parse import unquote

import pyarrow as pa

NULL = "__HIVE_DEFAULT_PARTITION__"
_KEY = re.compile(r"([^=/]+)=([^/]*)")
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def keys_of(folder: str) -> dict[str, str | None]:
    """The keys in the path of a folder, as texts."""
    found = (_KEY.fullmatch(part) for part in folder.split("/"))
    return {unquote(key[1]): None if key[2] == NULL else unquote(key[2]) for key in found if key}


def as_integer(text: str) -> int | None:
    """The number that a text is; None if it is none."""
    return int(text) if _INTEGER.fullmatch(text) else None


def as_date(text: str) -> date | None:
    """The day that a text is, as 2022-04-25; None if it is none."""
    if not _DATE.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def key_array(texts: Iterable[str | None]) -> pa.Array:
    """The values of a key: int64, date32 or text; nulls without a type if it has no value at all."""
    texts = list(texts)
    if not any(text is not None for text in texts):
        return pa.nulls(len(texts))
    for parse, kind in ((as_integer, pa.int64()), (as_date, pa.date32())):
        values = {text: parse(text) for text in set(texts) if text is not None}
        if None not in values.values():
            return pa.array([None if text is None else values[text] for text in texts], kind)
    return pa.array(texts, pa.string())
