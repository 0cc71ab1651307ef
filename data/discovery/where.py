"""`data.where`: which partitions of a dataset are wanted, by the keys of its folders.

A bare value is a whole number, a date or else text, and a quoted one is text. Null, and so a folder that is called
`dt=__HIVE_DEFAULT_PARTITION__`, fits no comparison.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from data.conditions import COMPARE, AnyOf, Comparison, Condition, Not, Word, comparisons, parse_condition
from data.discovery.partitions import as_date, as_integer
from data.errors import DataError

_EXAMPLE = "write comparisons of keys, as in dt >= 2022-04-25 and dt < 2022-05-05"
Value = int | date | str
Keys = Mapping[str, str | None]
"""What the folders say, by key."""
Verdict = bool | None
"""None: not known, since the folders so far do not have the key."""


@dataclass(frozen=True)
class Where:
    """Which partitions are wanted."""

    text: str
    condition: Condition

    @property
    def keys(self) -> frozenset[str]:
        """That it asks for."""
        return frozenset(entry.key for entry in comparisons(self.condition))

    def holds(self, keys: Keys) -> Verdict:
        """Whether it holds for a folder; DataError if a key's value cannot be compared."""
        return _holds(self.condition, keys)


def parse_where(text: str) -> Where:
    """Raises ValueError, which says what is wrong, if the text is none."""
    return Where(text, parse_condition(text, _EXAMPLE))


def _holds(condition: Condition, keys: Keys) -> Verdict:
    if isinstance(condition, Not):
        verdict = _holds(condition.inner, keys)
        return None if verdict is None else not verdict
    if isinstance(condition, Comparison):
        return _first(True, [_compare(keys, condition, _value(word)) for word in condition.values])
    return _first(isinstance(condition, AnyOf), [_holds(part, keys) for part in condition.parts])


def _first(wanted: bool, verdicts: list[Verdict]) -> Verdict:
    """`wanted` if one of them is that, None if else one is not known, the opposite if all are known."""
    if wanted in verdicts:
        return wanted
    return None if None in verdicts else not wanted


def _value(word: Word) -> Value:
    if word.is_quoted:
        return word.text
    number, day = as_integer(word.text), as_date(word.text)
    return number if number is not None else day if day is not None else word.text


def _compare(keys: Keys, comparison: Comparison, value: Value) -> Verdict:
    key = comparison.key
    if key not in keys:
        return None
    text = keys[key]
    if text is None:
        return False
    found = text if isinstance(value, str) else as_integer(text) if isinstance(value, int) else as_date(text)
    if found is None:
        kind = "a number" if isinstance(value, int) else "a date"
        raise DataError(f"where: {key!r} is compared with {kind}, {value}, but a folder is called '{key}={text}'")
    return COMPARE[comparison.sign](found, value)
