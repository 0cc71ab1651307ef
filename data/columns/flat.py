"""What a sparse feature reads of all rows, end to end: values that are not null, and where each row's begin.

    one id a row · lists · lists beside lists of weights · parts of times · crosses

Shapes: N rows of the column, V values.
"""

import decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.columns.bad_values import BadValueError, Bool, NotAnIdError, mask_of
from data.columns.numbers import Column, Float32, read_exactly
from data.columns.texts import hash_texts
from data.columns.times import part_ids
from data.columns.types import Where, as_float64, as_plain, is_list
from data.features import SparseFeature
from data.hashing import Int64, mix

Integers = NDArray[np.int32 | np.int64]
_NULL_BITS = np.uint64(0x6E756C6C)
"""What null counts as in a cross; any number would do."""


class Flat(NamedTuple):
    """The values of all rows: row i holds values[offsets[i] : offsets[i + 1]]."""

    values: pa.Array
    """[V], none of them null."""
    offsets: Int64 | None
    """[N + 1]; None: every row holds just one."""
    weights: Float32 | None = None
    """[V]"""

    def rows_of(self, is_there_V: Bool) -> Bool:
        """The mask of the rows that hold one of some values."""
        return is_there_V if self.offsets is None else _rows_of(is_there_V, self.offsets)


def flatten(column: Column, feature: SparseFeature, where: Where) -> Flat:
    """What the feature reads; a null row, or a null in a list, holds nothing.

    BadValueError names a row with bad weights.
    """
    if feature.cross:
        return Flat(_crossed([column(name) for name in feature.cross], feature, where), None)

    array = column(feature.column)
    if pa.types.is_null(array.type):
        array = array.cast(pa.list_(pa.int32()) if feature.weights else pa.int32())
    elif feature.parts:
        array = part_ids(array, feature)

    if pa.types.is_floating(array.type):
        null = pa.scalar(None, array.type)
        array = pc.if_else(pc.is_nan(array), null, array)  # NaN is no id and lies in no bucket, as null
    if feature.weights:
        return _weighted(array, column(feature.weights), feature.weights, where)
    return without_nulls(array)


def to_buckets(values: pa.Array, boundaries: tuple[float, ...]) -> Int64:
    """How many boundaries are ≤ each value."""
    # float32 would round a timestamp; a float32 column has rounded, and its 0.7 is ≥ a boundary 0.7 rounded alike
    numbers = values if pa.types.is_float32(values.type) else as_float64(values)
    edges = np.asarray(boundaries, numbers.type.to_pandas_dtype())
    return np.searchsorted(edges, numbers.to_numpy(zero_copy_only=False), side="right")


def to_integers(values: pa.Array) -> Integers:
    """Ids as integers; text stands for the hash of its bytes. Raises NotAnIdError."""
    kind = values.type
    if pa.types.is_int32(kind):
        return values.to_numpy()
    if pa.types.is_null(kind):  # of lists that hold nothing but nulls, which have been left out
        return np.zeros(0, np.int64)
    if pa.types.is_uint64(kind):
        return _from_unsigned(values)
    if pa.types.is_integer(kind):
        return values.cast(pa.int64()).to_numpy()
    if pa.types.is_floating(kind):
        return _from_floats(values)
    if pa.types.is_decimal(kind):
        return _from_decimals(values)
    if not pa.types.is_dictionary(kind):
        return hash_texts(values)
    hashes = hash_texts(values.dictionary)
    return hashes[values.indices.to_numpy(zero_copy_only=False)]


def without_nulls(array: pa.Array) -> Flat:
    """What the rows of a column hold, each one value or a list of them."""
    if not is_list(array.type):
        if not array.null_count:
            return Flat(array, None)
        lengths = array.is_valid().to_numpy(zero_copy_only=False)
        return Flat(array.drop_null(), _to_offsets(lengths))

    has_offsets = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if has_offsets and not array.null_count:
        values = _elements(array)
        if not values.null_count:
            offsets = array.offsets.to_numpy().astype(np.int64)
            return Flat(values, offsets - offsets[0])

    lengths = _lengths(array)
    values = _elements(array)
    if not values.null_count:
        return Flat(values, _to_offsets(lengths))

    # Ids that are null are left out: a row is as long as it has others.
    is_valid = values.is_valid().to_numpy(zero_copy_only=False)
    return Flat(values.drop_null(), _to_offsets(_count(is_valid, lengths)))


def _weighted(ids: pa.Array, weights: pa.Array, name: str, where: Where) -> Flat:
    """Ids with the weights that stand beside them, in a column called `name`; those of null ids are left out."""
    lengths = _lengths(ids)
    lengths_of_weights = _lengths(weights)
    unlike = lengths != lengths_of_weights
    if unlike.any():
        row = int(np.argmax(unlike))
        counts = f"{lengths_of_weights[row]} weights in column {name!r} for {lengths[row]} ids"
        raise BadValueError(f"{where(row)}: {counts}; write one for each", name, "not a weight for each id", unlike)

    values = _elements(ids)
    if pa.types.is_null(weights.type):  # all lists are empty
        weights = weights.cast(pa.list_(pa.float32()))
    numbers = read_exactly(as_plain(weights.flatten()))
    with np.errstate(over="ignore"):
        as_float32 = numbers.astype(np.float32)
    is_valid = values.is_valid().to_numpy(zero_copy_only=False)
    wrong = is_valid & ~np.isfinite(as_float32)
    if wrong.any():
        is_bad_N = _rows_of(wrong, _to_offsets(lengths))
        found = f"column {name!r} holds weight {numbers[np.argmax(wrong)]:g}; write a finite number"
        raise BadValueError(f"{where(int(np.argmax(is_bad_N)))}: {found}", name, "not a finite weight", is_bad_N)

    return Flat(values.drop_null(), _to_offsets(_count(is_valid, lengths)), as_float32[is_valid])


def _crossed(arrays: list[pa.Array], feature: SparseFeature, where: Where) -> pa.Array:
    """A 64-bit id for the values of each row together: c = mix(c ^ mix(value)) from c = 0 on; null is a value too."""
    combined = np.zeros(len(arrays[0]), np.uint64)
    for name, array in zip(feature.cross, arrays, strict=True):
        flat = without_nulls(array)
        is_valid = array.is_valid().to_numpy(zero_copy_only=False)
        try:
            numbers = to_integers(flat.values)
        except NotAnIdError as error:
            rows = np.flatnonzero(is_valid)[error.is_bad_V]
            message = f"{where(int(rows[0]))}: column {name!r} holds {error}"
            raise BadValueError(message, name, error.reason, mask_of(rows, len(array))) from error
        bits = np.full(len(array), _NULL_BITS)
        bits[is_valid] = mix(numbers.astype(np.int64).view(np.uint64))
        combined = mix(combined ^ bits)
    return pa.array(combined.view(np.int64))


def _elements(array: pa.Array) -> pa.Array:
    """The values in the lists, end to end; NaN is null."""
    values = as_plain(array.flatten())
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def _rows_of(is_there_V: Bool, offsets: Int64) -> Bool:
    rows = np.searchsorted(offsets, np.flatnonzero(is_there_V), side="right") - 1
    return mask_of(rows, len(offsets) - 1)


def _lengths(array: pa.Array) -> Int64:
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64)
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    return np.asarray(lengths, np.int64)


def _count(is_valid: NDArray[np.bool_], lengths: Int64) -> Int64:
    """How many of each row's values are valid."""
    row_of_value = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(row_of_value[is_valid], minlength=len(lengths))


def _to_offsets(lengths: NDArray[np.integer | np.bool_]) -> Int64:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _from_unsigned(values: pa.Array) -> Int64:
    numbers = values.to_numpy()
    too_large = numbers >= np.uint64(1 << 63)
    if too_large.any():
        advice = "write its bits as int64, or it as text"
        found = f"id {numbers[np.argmax(too_large)]}, more than int64 holds; {advice}"
        raise NotAnIdError(too_large, found, "more than int64 holds")
    return np.asarray(numbers.view(np.int64))


def _from_floats(values: pa.Array) -> Int64:
    """Whole numbers, as far as the type holds each of them: pandas makes floats of integers with nulls."""
    numbers = values.to_numpy(zero_copy_only=False)
    digits = np.finfo(numbers.dtype).nmant + 1
    with np.errstate(invalid="ignore"):
        is_wrong = ~((numbers == np.trunc(numbers)) & (np.abs(numbers) <= 2.0**digits))
    if not is_wrong.any():
        return numbers.astype(np.int64)

    is_no_number = ~np.isfinite(numbers) | (numbers != np.trunc(numbers))
    value = numbers[np.argmax(is_wrong)]
    if is_no_number[np.argmax(is_wrong)]:
        found = f"{value}, which is no whole number; give the column boundaries, or mend it"
        raise NotAnIdError(is_wrong & is_no_number, found, "no whole number")
    rule = f"{values.type} tells whole numbers apart up to 2^{digits} only"
    found = f"id {value:.0f}, but {rule}; write ids as int64"
    raise NotAnIdError(is_wrong & ~is_no_number, found, f"more than {values.type} tells apart")


def _from_decimals(values: pa.Array) -> Int64:
    try:
        return np.asarray(values.cast(pa.int64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        is_wrong = np.array([not _is_int64(value) for value in values.to_pylist()], np.bool_)
        found = f"{values[int(np.argmax(is_wrong))]}, which is no whole number of 64 bits; mend it"
        raise NotAnIdError(is_wrong, found, "no whole number of 64 bits") from None


def _is_int64(value: decimal.Decimal) -> bool:
    return value == value.to_integral_value() and -(1 << 63) <= value < 1 << 63
