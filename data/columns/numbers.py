"""Columns of numbers → float32. What is not exact in float32 is computed in float64 and rounded once, at the end.

Shapes: R rows.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.compiled import compiled

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = Float32 | Float64
_SMALL = (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.float16(), pa.float32(), pa.bool_())
"""Types whose values are all exact in float32."""
LARGEST = float(np.finfo(np.float32).max)


def read_numbers(array: pa.Array) -> Floats:
    """Values of a column, NaN for null: float32 where all of its type are exact in it, else float64."""
    if array.type not in _SMALL:
        return read_exactly(array)
    return array.cast(pa.float32(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)


def read_exactly(array: pa.Array) -> Float64:
    """Values of a column in float64, NaN for null."""
    return array.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)


def to_float32(values: Floats) -> Float32:
    """The nearest float32; ±inf beyond its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


def transform_numbers(values: Float64, transform: str) -> Float64:
    """`none`: as they are. `log1p`: sign(x)·log(1 + |x|)."""
    match transform:
        case "none":
            return values
        case "log1p":
            logs: Float64 = np.copysign(np.log1p(np.abs(values)), values)
            return logs
        case _:
            raise AssertionError(transform)


def scale_numbers(array: pa.Array, transform: str, mean: float, scale: float) -> Float32:
    """(transform(x) - mean) / scale, computed in float64. NaN: null or NaN; ±inf: infinite, or beyond float32."""
    if transform == "none" and mean == 0 and scale == 1:
        return to_float32(read_numbers(array))

    with np.errstate(invalid="ignore"):
        values = transform_numbers(read_exactly(array), transform)
    return _scale(values, mean, scale)


@compiled
def _scale(values: Float64, mean: float, scale: float) -> Float32:
    """In one pass; numbers beyond float32 become ±inf."""
    scaled = np.empty(len(values), np.float32)
    for index in range(len(values)):
        scaled[index] = np.float32((values[index] - mean) / scale)
    return scaled
