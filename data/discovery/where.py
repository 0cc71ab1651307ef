"""`data.where`: which partitions of a dataset are wanted, by the keys of its folders.

    dt >= 2022-04-25 and dt < 2022-05-05          tab in (1, 4) or not country = 'AT'

A bare value is a whole number, a date or else text, and a quoted one is text. Null, and so a folder that is called
`dt=__HIVE_DEFAULT_PARTITION__`, fits no comparison.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from data.discovery.partitions import as_date, as_integer
from data.errors import DataError

_TOKEN = re.compile(r"""\s*(?:([(),])|(==|!=|<>|<=|>=|[=<>])|"([^"]*)"|'([^']*)'|([^\s(),<>=!"']+))""")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
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
    keys: frozenset[str]
    """That it asks for."""
    holds: Callable[[Keys], Verdict]
    """Whether it holds for a folder; DataError if a key's value cannot be compared."""


def parse_where(text: str) -> Where:
    """Raises ValueError, which says what is wrong, if the text is none."""
    parser = _Parser(text)
    holds = parser.any_of()
    if parser.left:
        raise ValueError(f"{text!r} goes on with {parser.left[0]!r} where it should end; {_EXAMPLE}")
    return Where(text, frozenset(parser.keys), holds)


def _tokens(text: str) -> list[str]:
    """Words and signs; quoted words keep one quote in front of them."""
    found, end = [], 0
    for match in _TOKEN.finditer(text):
        if match.start() != end:
            break
        sign, compared, double, single, word = match.groups()
        quoted = double if double is not None else single
        found.append(sign or compared or word or f"'{quoted}")
        end = match.end()
    if text[end:].strip():
        raise ValueError(f"{text!r} cannot be read from {text[end:].strip()!r} on; {_EXAMPLE}")
    return found


class _Parser:
    """Or, and, not, comparison: each level from those below it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.left = _tokens(text)
        self.keys: set[str] = set()

    def any_of(self) -> Callable[[Keys], Verdict]:
        parts = [self._all_of()]
        while self._take("or"):
            parts.append(self._all_of())
        return lambda keys: _first(True, [part(keys) for part in parts])

    def _all_of(self) -> Callable[[Keys], Verdict]:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return lambda keys: _first(False, [part(keys) for part in parts])

    def _one(self) -> Callable[[Keys], Verdict]:
        if self._take("not"):
            inner = self._one()
            return lambda keys: None if (verdict := inner(keys)) is None else not verdict
        if self._take("("):
            inner = self.any_of()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Callable[[Keys], Verdict]:
        key = self._word("a key")
        self.keys.add(key)
        if self._take("in"):
            self._expect("(")
            values = [_value(self._word("a value"))]
            while self._take(","):
                values.append(_value(self._word("a value")))
            self._expect(")")
            return lambda keys: _first(True, [_compare(keys, key, operator.eq, value) for value in values])

        sign = self.left.pop(0) if self.left else "its end"
        if sign not in _OPERATORS:
            raise ValueError(f"{self._text!r} has {sign} where {key!r} should be compared; {_EXAMPLE}")
        value = _value(self._word("a value"))
        return lambda keys: _compare(keys, key, _OPERATORS[sign], value)

    def _take(self, word: str) -> bool:
        if self.left and self.left[0].lower() == word:
            self.left.pop(0)
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise ValueError(f"{self._text!r} lacks a {sign!r}; {_EXAMPLE}")

    def _word(self, what: str) -> str:
        if not self.left or self.left[0] in {*"(),", *_OPERATORS}:
            raise ValueError(f"{self._text!r} has {self.left[0] if self.left else 'its end'} where {what} should be")
        return self.left.pop(0)


def _first(wanted: bool, verdicts: list[Verdict]) -> Verdict:
    """`wanted` if one of them is that, None if else one is not known, the opposite if all are known."""
    if wanted in verdicts:
        return wanted
    return None if None in verdicts else not wanted


def _value(word: str) -> Value:
    if word.startswith("'"):
        return word[1:]
    number, day = as_integer(word), as_date(word)
    return number if number is not None else day if day is not None else word


def _compare(keys: Keys, key: str, compare: Callable[[Any, Any], bool], value: Value) -> Verdict:
    if key not in keys:
        return None
    text = keys[key]
    if text is None:
        return False
    found = text if isinstance(value, str) else as_integer(text) if isinstance(value, int) else as_date(text)
    if found is None:
        kind = "a number" if isinstance(value, int) else "a date"
        raise DataError(f"where: {key!r} is compared with {kind}, {value}, but a folder is called '{key}={text}'")
    return compare(found, value)
