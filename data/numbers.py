"""Columns of numbers → float32. What is not exact in float32 is computed in float64 and rounded once, at the end.

Shapes: R rows.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Floats = NDArray[np.float32] | NDArray[np.float64]
_SMALL = (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.float16(), pa.float32(), pa.bool_())
"""Types whose values are all exact in float32."""
LARGEST = float(np.finfo(np.float32).max)


def read_numbers(array: pa.Array, *, exact: bool = False) -> Floats:
    """Values of a column, NaN for null: float32 where all of its type are exact in it, else (or if `exact`) float64."""
    kind = pa.float32() if array.type in _SMALL and not exact else pa.float64()
    return array.cast(kind, safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)


def to_float32(values: Floats) -> Float32:
    """The nearest float32; ±inf beyond its range."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def scale_numbers(array: pa.Array, transform: str, mean: float, scale: float) -> Float32:
    """(transform(x) - mean) / scale, computed in float64. NaN: null or NaN; ±inf: infinite, or beyond float32."""
    if transform == "none" and mean == 0 and scale == 1:
        return to_float32(read_numbers(array))
    values = read_numbers(array, exact=True)
    with np.errstate(over="ignore"):
        if transform == "log1p":
            values = np.copysign(np.log1p(np.abs(values)), values)
        if mean != 0 or scale != 1:
            values = (values - mean) / scale
    return to_float32(values)
