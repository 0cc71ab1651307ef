"""Columns of numbers → float32. What is not exact in float32 is computed in float64 and rounded once, at the end.

Shapes: N rows of the column, R chosen rows.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.columns.types import Where
from data.compiled import compiled
from data.errors import DataError
from data.features import DenseFeature
from data.hashing import Int64

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = Float32 | Float64
_SMALL = (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.float16(), pa.float32(), pa.bool_())
"""Types whose values are all exact in float32."""
LARGEST = float(np.finfo(np.float32).max)
_LARGEST_TEXT = f"{LARGEST:.2g}, the largest float32"


def read_numbers(array: pa.Array) -> Floats:
    """Values of a column, NaN for null: float32 where all of its type are exact in it, else float64."""
    if array.type not in _SMALL:
        return read_exactly(array)
    return array.cast(pa.float32(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)


def read_exactly(array: pa.Array) -> Float64:
    """Values of a column in float64, NaN for null."""
    return array.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)


def transform_numbers(values: Float64, transform: str) -> Float64:
    """`none`: as they are. `log1p`: sign(x)·log(1 + |x|)."""
    match transform:
        case "none":
            return values
        case "log1p":
            logs: Float64 = np.abs(values)
            np.log1p(logs, out=logs)
            return np.copysign(logs, values, out=logs)
        case _:
            raise AssertionError(transform)


def decode_dense(array: pa.Array, feature: DenseFeature, chosen: Int64, where: Where, target: Float32) -> int:
    """Writes (transform(x) - mean) / scale of the chosen rows to `target` (R), 0 where x is missing.

    Returns how many of them hold NaN or ±inf, which count as missing. DataError names a row that float32 does not hold.
    """
    values: Floats
    if feature.transform == "log1p":
        with np.errstate(invalid="ignore"):
            values = transform_numbers(read_exactly(array), "log1p")
    else:
        values = read_numbers(array)

    num_missing, num_too_large = _take_scaled(values, chosen, feature.mean or 0.0, feature.scale or 1.0, target)
    if num_too_large:
        chosen = np.sort(chosen)
        _take_scaled(values, chosen, feature.mean or 0.0, feature.scale or 1.0, target)
        row = int(chosen[np.argmax(np.isinf(target))])
        raise DataError(
            f"{where(row)}: column {feature.column!r} is {array[row]}, after transform, mean and scale more than "
            f"{_LARGEST_TEXT}; write null where it is no value, or set transform = 'log1p' or a larger scale"
        )
    return num_missing - _count_nulls(array, chosen) if num_missing else 0


def decode_label(array: pa.Array, column: str, binary: bool, chosen: Int64, where: Where, target: Float32) -> None:
    """Writes a label of the chosen rows to `target` (R), NaN for null; DataError names a row that holds no label."""
    values = read_numbers(array)
    num_missing, num_wrong = _take_labels(values, chosen, binary, target)
    if not num_wrong and num_missing == (_count_nulls(array, chosen) if num_missing else 0):
        return

    chosen = np.sort(chosen)
    _take_labels(values, chosen, binary, target)
    is_null = array.is_null().to_numpy(zero_copy_only=False)[chosen]
    is_right = (target == 0) | (target == 1) if binary else np.isfinite(target)
    if binary:
        is_right &= values[chosen] == target
    row = int(chosen[np.argmin(is_right | is_null)])
    rule = "a binary label is 0, 1 or null" if binary else "a label is a finite number or null"
    way_out = "; write null if it is not known" if np.isnan(values[row]) else _limit(values[row])
    raise DataError(f"{where(row)}: label {column!r} is {array[row]}; {rule}{way_out}")


def decode_weights(array: pa.Array, column: str, chosen: Int64, where: Where, target: Float32) -> None:
    """Writes the weights of the chosen rows to `target` (R); DataError names a row that holds none."""
    numbers = read_numbers(array)[chosen]
    with np.errstate(over="ignore", invalid="ignore"):
        target[:] = numbers
    wrong = ~(np.isfinite(target) & (numbers >= 0))
    if np.any(wrong):
        row = int(chosen[wrong].min())
        rule = f"a weight is a number ≥ 0{_limit(array[row].as_py())}"
        raise DataError(f"{where(row)}: weight {column!r} is {array[row]}; {rule}")


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
