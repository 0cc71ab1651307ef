"""Columns of numbers → float32. What is not exact in float32 is computed in float64 and rounded once, at the end.

Shapes: N rows of the column, R chosen rows, W inputs of the model that a feature becomes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.columns.bad_values import BadValueError, mask_of
from data.columns.times import days_between
from data.columns.types import Where, as_float64, as_plain, spread
from data.compiled import compiled
from data.conditions import Condition, comparisons
from data.features import DenseFeature, Missing, Transform
from data.hashing import Int64

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = Float32 | Float64
Column = Callable[[str], pa.Array]
"""The values of a column by its name, in their plain type."""
_SMALL = (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.float16(), pa.float32(), pa.bool_())
"""Types whose values are all exact in float32."""
LARGEST = float(np.finfo(np.float32).max)
_LARGEST_TEXT = f"{LARGEST:.2g}, the largest float32"


@dataclass(frozen=True)
class Label:
    """A column to learn."""

    column: str
    binary: bool
    """Values other than 0 and 1 are an error."""
    missing: Missing = "error"
    """A file that lacks it: an error, or null in all of its rows."""
    threshold: float | None = None
    """Values of at least so much are 1, others 0."""
    transform: Transform = "none"
    weight: str | None = None
    """A column of weights of this label's own."""
    where: Condition | None = None
    """Rows in which it does not hold have no such label."""

    @property
    def columns(self) -> list[str]:
        """What it reads."""
        weight = [self.weight] if self.weight else []
        compared = [entry.key for entry in comparisons(self.where)] if self.where else []
        return [self.column, *weight, *compared]


def read_numbers(array: pa.Array) -> Floats:
    """Values of a column, NaN for null: float32 where all of its type are exact in it, else float64."""
    if array.type not in _SMALL:
        return read_exactly(array)
    # A copy, null or not, lies in the cache from which rows are then taken in another order.
    return array.cast(pa.float32(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)


def read_exactly(array: pa.Array) -> Float64:
    """Values of a column in float64, NaN for null."""
    values = as_float64(array)
    return (values.fill_null(np.nan) if values.null_count else values).to_numpy(zero_copy_only=False)


def transform_numbers(values: Float64, transform: str) -> Float64:
    """`none`: as they are. `log1p`: sign(x)·log(1 + |x|). `sqrt`: sign(x)·√|x|."""
    if transform == "none":
        return values
    changed: Float64 = np.abs(values)
    (np.log1p if transform == "log1p" else np.sqrt)(changed, out=changed)
    return np.copysign(changed, values, out=changed)


def dense_array(column: Column, feature: DenseFeature, where: Where) -> pa.Array:
    """What a dense feature reads: a number for each row, or `size` of them, end to end."""
    array = column(feature.column)
    if feature.since:
        return days_between(column(feature.since), array)
    if feature.size is None:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array) * feature.size, pa.float32())
    return _vectors(array, feature, feature.size, where)


def dense_numbers(array: pa.Array, feature: DenseFeature) -> Float64:
    """The feature's values before its transform, NaN or ±inf where they are missing."""
    values = read_exactly(array)
    if feature.fill is not None:
        values = np.where(np.isfinite(values), values, feature.fill)
    if feature.clip is not None:
        values = np.where(np.isfinite(values), np.clip(values, *feature.clip), values)
    return values


def decode_dense(column: Column, feature: DenseFeature, chosen: Int64, where: Where, target_WR: Float32) -> Int64:
    """Writes (transform(x) - mean) / scale of the chosen rows to `target_WR`, 0 where x is missing.

    Returns the places among the chosen of the values that are NaN or ±inf, which count as missing. BadValueError names
    a row that float32 does not hold, or that has not as many numbers as the feature.
    """
    array = dense_array(column, feature, where)
    values = _transformed(array, feature)
    if feature.size is None:
        num_too_large, not_finite = _decode_column(array, values, feature, chosen, target_WR[0])
        if num_too_large:
            raise _too_large(array, values, feature, chosen, where)
        return not_finite

    places = [np.zeros(0, np.int64)]
    values_RW = values.reshape(-1, feature.size)
    for place in range(feature.size):
        of_place = array.take(pa.array(np.arange(place, len(array), feature.size)))
        of_row = values_RW[:, place].copy()
        num_too_large, not_finite = _decode_column(of_place, of_row, feature, chosen, target_WR[place])
        if num_too_large:
            raise _too_large(array, values, feature, chosen, where)
        places.append(not_finite)
    return np.concatenate(places)


def _transformed(array: pa.Array, feature: DenseFeature) -> Floats:
    is_plain = feature.transform in (None, "none")
    if is_plain and feature.fill is None and feature.clip is None:
        return read_numbers(array)
    with np.errstate(invalid="ignore"):
        return transform_numbers(dense_numbers(array, feature), feature.transform or "none")


def _vectors(array: pa.Array, feature: DenseFeature, size: int, where: Where) -> pa.Array:
    """The numbers of all rows; those of a null row are null. BadValueError names a row that has more or fewer."""
    is_known = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.full(len(array), size)
    if pa.types.is_fixed_size_list(array.type):
        lengths[is_known] = array.type.list_size
    else:
        lengths[is_known] = pc.list_value_length(array).drop_null().to_numpy()
    wrong = lengths != size
    if np.any(wrong):
        row = int(np.argmax(wrong))
        has = f"column {feature.column!r} has {lengths[row]} numbers"
        message = f"{where(row)}: {has}, but its feature has size = {size}; write null for a missing one"
        raise BadValueError(message, feature.column, f"not {size} numbers", wrong)

    values = as_plain(array.flatten())
    if not array.null_count:
        return values
    return spread(values, np.repeat(is_known, size))


def _decode_column(
    array: pa.Array, values: Floats, feature: DenseFeature, chosen: Int64, target: Float32
) -> tuple[int, Int64]:
    """Writes the scaled values of the chosen rows to `target` (R); `array`: what they were before.

    Returns how many become ±inf, and the places of those that were NaN or ±inf before.
    """
    mean, scale = feature.mean or 0.0, feature.scale or 1.0
    num_missing, num_too_large = _take_scaled(values, chosen, mean, scale, target)
    if feature.fill is None and (not num_missing or num_missing == _count_nulls(array, chosen)):
        return num_too_large, np.zeros(0, np.int64)

    is_missing = ~np.isfinite(values if feature.fill is None else read_exactly(array))
    if array.null_count:
        is_missing &= array.is_valid().to_numpy(zero_copy_only=False)
    return num_too_large, np.flatnonzero(is_missing[chosen])


def _too_large(array: pa.Array, values: Floats, feature: DenseFeature, chosen: Int64, where: Where) -> BadValueError:
    """Names the first of the chosen rows with a value that float32 does not hold."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = ((values.astype(np.float64) - (feature.mean or 0.0)) / (feature.scale or 1.0)).astype(np.float32)
    is_large_RW = (np.isfinite(values) & np.isinf(scaled)).reshape(-1, feature.size or 1)
    is_bad_N = np.any(is_large_RW, axis=1) & mask_of(chosen, len(is_large_RW))
    row = int(np.argmax(is_bad_N))
    value = array[row * is_large_RW.shape[1] + int(np.argmax(is_large_RW[row]))]
    message = (
        f"{where(row)}: column {feature.column!r} is {value}, after transform, mean and scale more than "
        f"{_LARGEST_TEXT}; write null where it is no value, or set transform = 'log1p', a larger scale or clip"
    )
    return BadValueError(message, feature.column, "more than float32 holds", is_bad_N)


def decode_label(array: pa.Array, label: Label, chosen: Int64, where: Where, target: Float32) -> None:
    """Writes a label of the chosen rows to `target` (R), NaN for null; BadValueError names a row without one."""
    values = _label_values(array, label)
    binary = label.binary
    num_missing, num_wrong = _take_labels(values, chosen, binary, target)
    if not num_wrong and num_missing == (_count_nulls(array, chosen) if num_missing else 0):
        return

    chosen = np.sort(chosen)
    _take_labels(values, chosen, binary, target)
    is_null = array.is_null().to_numpy(zero_copy_only=False)[chosen]
    is_right = (target == 0) | (target == 1) if binary else np.isfinite(target)
    if binary:
        is_right &= values[chosen] == target
    rows = chosen[~(is_right | is_null)]
    row = int(rows[0])
    a_label, is_what = ("a binary label", "0, 1 or null") if binary else ("a label", "a finite number or null")
    way_out = "; write null if it is not known" if np.isnan(values[row]) else _limit(values[row])
    message = f"{where(row)}: label {label.column!r} is {array[row]}; {a_label} is {is_what}{way_out}"
    raise BadValueError(message, label.column, f"not {is_what}", mask_of(rows, len(array)))


def _label_values(array: pa.Array, label: Label) -> Floats:
    """NaN where the label is missing, or is no number."""
    if label.threshold is not None:
        numbers = read_exactly(array)
        return np.where(np.isnan(numbers), np.nan, numbers >= label.threshold)
    if label.transform != "none":
        with np.errstate(invalid="ignore"):
            return transform_numbers(read_exactly(array), label.transform)
    return read_numbers(array)


def decode_weights(array: pa.Array, column: str, chosen: Int64, where: Where, target: Float32) -> None:
    """Writes the weights of the chosen rows to `target` (R); BadValueError names a row that holds none."""
    numbers = read_numbers(array)[chosen]
    with np.errstate(over="ignore", invalid="ignore"):
        target[:] = numbers
    wrong = ~(np.isfinite(target) & (numbers >= 0))
    if np.any(wrong):
        row = int(chosen[wrong].min())
        rule = f"a weight is a number ≥ 0{_limit(array[row].as_py())}"
        message = f"{where(row)}: weight {column!r} is {array[row]}; {rule}"
        raise BadValueError(message, column, "not a number ≥ 0", mask_of(chosen[wrong], len(array)))


def _limit(number: float | None) -> str:
    """What to add to a rule that a number breaks by its size alone."""
    return f", up to {_LARGEST_TEXT}" if number is not None and LARGEST < abs(number) < np.inf else ""


def _count_nulls(array: pa.Array, chosen: Int64) -> int:
    if not array.null_count or len(chosen) == len(array):
        return int(array.null_count)
    is_null = array.is_null().to_numpy(zero_copy_only=False)
    return int(np.count_nonzero(is_null[chosen]))


@compiled
def _take_scaled(values: Floats, chosen: Int64, mean: float, scale: float, target: Float32) -> tuple[int, int]:
    """In one pass. Returns how many of the chosen are missing, for which 0 is written, and how many become ±inf."""
    num_missing = 0
    num_too_large = 0
    for index in range(len(chosen)):
        value = np.float64(values[np.uint64(chosen[index])])  # an unsigned place is not checked for its sign
        scaled = np.float32((value - mean) / scale)
        is_missing = not np.isfinite(value)
        num_missing += is_missing
        num_too_large += not is_missing and not np.isfinite(scaled)
        target[index] = np.float32(0) if is_missing else scaled
    return num_missing, num_too_large


@compiled
def _take_labels(values: Floats, chosen: Int64, binary: bool, target: Float32) -> tuple[int, int]:
    """In one pass. Returns how many of the chosen are NaN, and how many others are no labels."""
    num_missing = 0
    num_wrong = 0
    for index in range(len(chosen)):
        value = values[np.uint64(chosen[index])]
        label = np.float32(value)
        is_missing = np.isnan(value)
        is_right = (value == 0 or value == 1) if binary else np.isfinite(label)
        num_missing += is_missing
        num_wrong += not is_missing and not is_right
        target[index] = label
    return num_missing, num_wrong
