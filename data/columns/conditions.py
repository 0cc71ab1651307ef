"""`tasks.where`: for which rows a condition on their columns holds. Null fits no comparison.

Shapes: N rows of a table.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from data.columns.numbers import Column
from data.columns.types import as_float64, is_number, is_text, is_time, plain_type
from data.conditions import COMPARE, AnyOf, Comparison, Condition, Not, Word, comparisons

Bool = NDArray[np.bool_]
_FUNCTIONS: dict[str, Callable[[pa.Array, pa.Scalar], pa.Array]] = {
    "=": pc.equal,
    "in": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_TRUTH = {"true": 1, "false": 0}


def rows_where(condition: Condition, column: Column) -> Bool:
    """For which rows it holds [N]. The types of the columns are known to fit (`problem_in_condition`)."""
    if isinstance(condition, Not):
        return ~rows_where(condition.inner, column)
    if isinstance(condition, Comparison):
        array = column(condition.key)
        return np.asarray(np.logical_or.reduce([_compare(array, condition.sign, word) for word in condition.values]))
    masks = [rows_where(part, column) for part in condition.parts]
    return np.asarray((np.logical_or if isinstance(condition, AnyOf) else np.logical_and).reduce(masks))


def problem_in_condition(kind: pa.DataType, condition: Condition, name: str) -> str | None:
    """What is wrong with a column of this type in a condition that compares it; None: nothing."""
    for comparison in comparisons(condition):
        for word in comparison.values:
            if comparison.key == name and not _fits(word, plain_type(kind)):
                return f"is {kind}, but a task's where compares it with {word.text!r}; name one of its own values"
    return None


def _fits(word: Word, kind: pa.DataType) -> bool:
    try:
        if is_number(kind):
            _number(word)
        elif not types.is_null(kind):
            _scalar(word, kind)
    except ValueError:
        return False
    return True


def _compare(array: pa.Array, sign: str, word: Word) -> Bool:
    if types.is_null(array.type):
        return np.zeros(len(array), np.bool_)
    if not is_number(array.type):
        array = array.dictionary_decode() if types.is_dictionary(array.type) else array
        found = _FUNCTIONS[sign](array, _scalar(word, array.type))
        return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), np.bool_)

    # numpy compares whole numbers with Python's exactly, whatever their types.
    is_known = array.is_valid().to_numpy(zero_copy_only=False)
    values = as_float64(array) if types.is_decimal(array.type) else array
    numbers = values.fill_null(0).to_numpy(zero_copy_only=False)
    return np.asarray(is_known & COMPARE[sign](numbers, _number(word)), np.bool_)


def _number(word: Word) -> int | float:
    """ValueError if it is none."""
    if word.is_quoted:
        raise ValueError(word.text)
    if word.text.lower() in _TRUTH:
        return _TRUTH[word.text.lower()]
    try:
        return int(word.text)
    except ValueError:
        return float(word.text)


def _scalar(word: Word, kind: pa.DataType) -> pa.Scalar:
    """Text or a time that a column of this plain type can be compared with; ValueError if it is none."""
    if is_text(kind):
        kind = kind.value_type if types.is_dictionary(kind) else kind
        is_string = types.is_string(kind) or types.is_large_string(kind)
        return pa.scalar(word.text if is_string else word.text.encode(), kind)
    if not is_time(kind):
        raise ValueError(word.text)
    if types.is_date(kind):
        return pa.scalar(date.fromisoformat(word.text), kind)

    # A time without a zone is one of UTC, here as in `parts`.
    moment = datetime.fromisoformat(word.text)
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return pa.scalar(moment if kind.tz else moment.replace(tzinfo=None), kind)
