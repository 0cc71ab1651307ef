"""Time windows of a dataset: which of its folders and files come first, by the numbers in their names.

    hour=9 < hour=10        part.2 < part.10        2024-1-9 < 2024-01-10        offset=-10 < offset=-2

A name is cut into text and numbers, and numbers are compared as numbers. Text says nothing about time, so names that
stand beside each other must differ in their numbers alone (`check_windows`).
"""

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import PurePosixPath
from urllib.parse import unquote

import numpy as np

from data.errors import DataError
from data.hashing import Int64

FILE_SUFFIX = re.compile(r"(\.(snappy|gz|gzip|zstd|lz4|lz4raw|lzo|brotli|br))?\.parquet$", re.IGNORECASE)
WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)
"""A name, or the value after `key=`, that is one number: -3, 0.25 or Spark's 1.7E9."""
NUMBER = re.compile(r"((?<![^\W_])-?\d+|\d+)")
"""A number inside a name; the hyphens of 2024-01-10 are no minus."""
YEAR_FIRST = re.compile(r"([^=]*=)?\D*(19|20)\d\d\D")
YEAR_LAST = re.compile(r"(?<!\d)\d{1,2}[-_./](19|20)\d\d(?!\d)")
"""Also matches a day and 8 pm, as in 2024-01-09_2000; there the year stands first."""
SHORT_YEAR = re.compile(r"([^=]*=)?\d{1,2}([-_./])\d{1,2}\2\d{1,2}")
"""24-01-09 may be a day of 2024 or of 2009."""
TWELVE_HOURS = re.compile(r"\d ?[ap]\.?m\b", re.IGNORECASE)
"""12 pm comes before 1 pm."""
UNIT_KEYS = (
    ("year", "yyyy", "yy", "y"),
    ("month", "mon"),
    ("day", "date", "dt", "ds", "dd", "d"),
    ("hour", "hr", "hh", "h"),
    ("minute", "min", "mi"),
    ("second", "sec", "ss", "s"),
)
"""What folders of a unit of time are called, the largest unit first; `mm` may be months or minutes."""
UNITS = {key: size for size, keys in enumerate(UNIT_KEYS) for key in keys}
WITHOUT_VALUE = "__HIVE_DEFAULT_PARTITION__"
Token = tuple[int, Decimal, str]
"""(0, number, "") or (1, 0, text): numbers come before text."""


def window_name(file: str) -> str:
    """The folder of a file of the dataset, or the file itself where it lies at the root."""
    folder = str(PurePosixPath(file).parent)
    return file if folder == "." else folder


def number_windows(names: Iterable[str]) -> Int64:
    """The place in time of each window's name, from 0; names that differ in leading zeros only are one window."""
    names = list(names)
    keys = {name: _time_key(name) for name in set(names)}
    ordered = sorted(set(keys.values()))
    places = {key: place for place, key in enumerate(ordered)}
    return np.array([places[keys[name]] for name in names], np.int64)


def check_windows(uri: str, names: Iterable[str]) -> None:
    """Raises DataError if the names of the windows do not tell which comes first."""
    problem = _problem(sorted(set(names)))
    if problem:
        raise DataError(
            f"dataset {uri}: {problem}; chronological order needs names that differ in numbers only, the largest unit "
            "first, as day=2024-01-09 and day=2024-01-10: rename them, or set data.order to another order"
        )


def _time_key(name: str) -> tuple[tuple[Token, ...], ...]:
    return tuple(_tokens(part) for part in _parts(name))


def _parts(name: str) -> list[str]:
    return list(PurePosixPath(name).parts)


def _tokens(part: str) -> tuple[Token, ...]:
    """`day=2024-01` → text, number, text, number, text.

    0.5 and 0.25 may be decimals or versions: the text counts the digits after a dot, so that such names differ in it.
    """
    part = FILE_SUFFIX.sub("", part)
    key, equals, value = part.partition("=") if "=" in part else ("", "", part)
    value = unquote(value)  # as Hive and Spark write what a path cannot hold
    number = WHOLE_NUMBER.fullmatch(value)

    if number:
        fraction, exponent = number.groups()
        digits = 0 if exponent else len(fraction or "")
        return _text(key + equals), _number(value), _text("." * digits)

    pieces = NUMBER.split(value)
    pieces[0] = key + equals + pieces[0]

    # Texts and numbers alternate. The text before a fraction counts its digits.
    for index in range(2, len(pieces) - 1, 2):
        if pieces[index] == ".":
            pieces[index] += "." * len(pieces[index + 1])

    return tuple(_number(piece) if index % 2 else _text(piece) for index, piece in enumerate(pieces))


def _text(text: str) -> Token:
    return 1, Decimal(0), text


def _number(digits: str) -> Token:
    try:
        return 0, Decimal(digits), ""
    except InvalidOperation:  # an exponent beyond what Decimal holds
        return _text(digits)


def _problem(names: list[str]) -> str | None:
    """Why the order of some windows is not to be trusted; None: it is."""
    first_by_parent: dict[tuple[tuple[Token, ...], ...], str] = {}
    for name in names:
        key = _time_key(name)
        for depth, part in enumerate(_parts(name)):
            first = first_by_parent.setdefault(key[:depth], part)
            problem = _problem_between(first, part) if first != part else None
            if problem:
                return problem

    return _unlike_depth(names) or _unlike_units({tuple(_parts(name)) for name in names})


def _problem_between(first: str, other: str) -> str | None:
    for part in (first, other):
        if WITHOUT_VALUE in part:
            return f"folder {part!r} holds rows without a value, which have no place in time"
        name = unquote(part)
        if YEAR_LAST.search(name) and not YEAR_FIRST.match(name):
            return f"{part!r} has its year last"
        if SHORT_YEAR.fullmatch(name):
            return f"{part!r} does not say which number is the year: write it with four digits"
        if TWELVE_HOURS.search(name):
            return f"{part!r} counts hours to 12"

    if _texts(first) == _texts(other):
        return None

    return f"nothing tells whether {first!r} or {other!r} comes first"


def _texts(part: str) -> list[str]:
    """What stands around the numbers of a name."""
    return [text for _, _, text in _tokens(part)]


def _unlike_depth(names: list[str]) -> str | None:
    name_by_key = {_time_key(name): name for name in names}
    for key, inner in name_by_key.items():
        for depth in range(1, len(key)):
            outer = name_by_key.get(key[:depth])
            if outer:
                return f"nothing tells whether the files in {outer!r} or those in {inner!r} come first"

    return None


def _unlike_units(paths: set[tuple[str, ...]]) -> str | None:
    """`day=1/month=2`: all days 1 would come before all days 2."""
    for path in sorted(paths):
        keys = [part.partition("=")[0].lower() for part in path]
        units = [key for key in keys if key in UNITS]
        if units != sorted(units, key=UNITS.__getitem__):
            return f"{'/'.join(path)!r} has {units[0]!r} outside {units[-1]!r}"
    return None
