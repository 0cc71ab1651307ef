"""Conditions as users write them, of the keys of folders (`data.where`) or the columns of rows (`tasks.where`).

dt >= 2022-04-25 and dt < 2022-05-05          tab in (1, 4) or not country = 'AT'
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(r"""\s*(?:([(),])|(==|!=|<>|<=|>=|[=<>])|"([^"]*)"|'([^']*)'|([^\s(),<>=!"']+))""")
_SIGNS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "in": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
"""What the sign of a comparison asks of a value and the one beside it."""


@dataclass(frozen=True)
class Word:
    """A value as it is written."""

    text: str
    is_quoted: bool


@dataclass(frozen=True)
class Comparison:
    """`key sign value`, or with the sign `in` several values, of which it equals one."""

    key: str
    sign: str
    values: tuple[Word, ...]


@dataclass(frozen=True)
class Not:
    """The opposite."""

    inner: "Condition"


@dataclass(frozen=True)
class AllOf:
    """Every one of its parts."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one of its parts."""

    parts: tuple["Condition", ...]


Condition = Comparison | Not | AllOf | AnyOf


def parse_condition(text: str, example: str) -> Condition:
    """Raises ValueError, which says what is wrong and gives the example, if the text is none."""
    parser = _Parser(text, example)
    condition = parser.any_of()
    if parser.left:
        raise ValueError(f"{text!r} goes on with {parser.left[0]!r} where it should end; {example}")
    return condition


def comparisons(condition: Condition) -> Iterator[Comparison]:
    """All that the condition is made of."""
    if isinstance(condition, Comparison):
        yield condition
        return
    for part in (condition.inner,) if isinstance(condition, Not) else condition.parts:
        yield from comparisons(part)


def _tokens(text: str, example: str) -> list[str]:
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
        raise ValueError(f"{text!r} cannot be read from {text[end:].strip()!r} on; {example}")
    return found


class _Parser:
    """Or, and, not, comparison: each level from those below it."""

    def __init__(self, text: str, example: str) -> None:
        self._text = text
        self._example = example
        self.left = _tokens(text, example)

    def any_of(self) -> Condition:
        parts = [self._all_of()]
        while self._take("or"):
            parts.append(self._all_of())
        return AnyOf(tuple(parts)) if len(parts) > 1 else parts[0]

    def _all_of(self) -> Condition:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return AllOf(tuple(parts)) if len(parts) > 1 else parts[0]

    def _one(self) -> Condition:
        if self._take("not"):
            return Not(self._one())
        if self._take("("):
            inner = self.any_of()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Condition:
        key = self._word("a key").removeprefix("'")
        if self._take("in"):
            self._expect("(")
            values = [self._value()]
            while self._take(","):
                values.append(self._value())
            self._expect(")")
            return Comparison(key, "in", tuple(values))

        sign = self.left.pop(0) if self.left else "its end"
        if sign not in _SIGNS:
            raise ValueError(f"{self._text!r} has {sign} where {key!r} should be compared; {self._example}")
        return Comparison(key, _SIGNS[sign], (self._value(),))

    def _value(self) -> Word:
        word = self._word("a value")
        return Word(word[1:], is_quoted=True) if word.startswith("'") else Word(word, is_quoted=False)

    def _take(self, word: str) -> bool:
        if self.left and self.left[0].lower() == word:
            self.left.pop(0)
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise ValueError(f"{self._text!r} lacks a {sign!r}; {self._example}")

    def _word(self, what: str) -> str:
        if not self.left or self.left[0] in {*"(),", *_SIGNS}:
            found = self.left[0] if self.left else "its end"
            raise ValueError(f"{self._text!r} has {found} where {what} should be; {self._example}")
        return self.left.pop(0)
