"""Means and standard deviations of columns, measured on training rows before the first step.

Row groups are read, evenly spaced over the dataset in path order, of large ones the first rows: the same ones for every
seed and order, so that two runs on the same data start from the same numbers.

Shapes: R rows, T tasks.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.columns.bad_values import BadValueError, without_rows
from data.columns.decode import Rows, decode, plain_column
from data.columns.flat import without_nulls
from data.columns.numbers import LARGEST, Float64, dense_array, dense_numbers, read_exactly, transform_numbers
from data.columns.types import Where
from data.discovery.footer import UnreadableError
from data.features import DenseFeature, Features, Transform
from data.hashing import Int64
from data.manifest import Manifest
from data.pipeline.block_rows import MOST_ROWS
from data.pipeline.blocks import BlockReader
from data.pipeline.row_groups import rows_of_group, with_way_out
from data.reading import Reading

ROWS = 1 << 18
"""Rows to measure, or a few more: from so many a rate of 0.1 % is known to ± 6 % of itself."""


@dataclass(frozen=True)
class Moments:
    """Of the known values of a column."""

    mean: float = 0.0
    deviation: float = 0.0
    """Standard deviation."""
    weight: float = 0.0
    """Sum of the values' weights."""
    count: int = 0
    """Values of a weight above 0."""
    low: float = math.inf
    high: float = -math.inf

    @property
    def reach(self) -> float:
        """Distance of the farthest value from the mean, in standard deviations; 0 if all are equal."""
        distance = max(self.high - self.mean, self.mean - self.low)
        return distance / self.deviation if self.deviation > 0 else 0.0


@dataclass(frozen=True)
class Statistics:
    """Of some training rows."""

    dense: tuple[dict[Transform, Moments], ...]
    """Of each dense feature, after each transform that the config leaves open."""
    labels: tuple[Moments, ...]
    """Of each label, by the rows' weights."""
    boundaries: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Of the sparse features that ask for quantiles, by name."""


def measure(reading: Reading) -> Statistics:
    """Statistics of the columns that `reading` decodes; DataError if a value is bad, unless such rows are skipped."""
    columns = reading.columns
    transforms = map(_transforms, columns.features.dense)
    dense = [dict.fromkeys(names, Moments()) for names in transforms]
    labels = [Moments() for _ in columns.labels]
    bucketed = [feature for feature in columns.features.sparse if feature.asked_quantiles]
    values: dict[str, list[Float64]] = {feature.name: [] for feature in bucketed}

    for sampled, where in _sample(reading):
        table, rows = _usable(sampled, reading, where)
        for feature, known in zip(columns.features.dense, dense, strict=True):
            values_R = dense_numbers(dense_array(partial(plain_column, table), feature, where), feature)
            for transform, before in known.items():
                transformed_R = transform_numbers(values_R, transform)
                known[transform] = join(before, moments(transformed_R))

        for entry in bucketed:
            flat = without_nulls(plain_column(table, entry.column))
            values[entry.name].append(read_exactly(flat.values))

        for index, labels_R in enumerate(rows.labels_RT.T):
            own_R = rows.label_weights_T[index]
            weights_R = rows.weights_R if own_R is None else rows.weights_R * own_R
            of_group = moments(labels_R.astype(np.float64), weights_R)
            labels[index] = join(labels[index], of_group)

    boundaries = {entry.name: _quantiles(values[entry.name], entry.asked_quantiles or 0) for entry in bucketed}
    return Statistics(tuple(dense), tuple(labels), boundaries)


def _usable(table: pa.Table, reading: Reading, where: Where) -> tuple[pa.Table, Rows]:
    """The rows that hold no bad value in a dense column, label or weight, and their labels and weights.

    All of them, or a DataError, unless rows with bad values are skipped.
    """
    outcomes = replace(reading.columns, features=Features())
    while True:
        try:
            for feature in reading.columns.features.dense:
                values_R = dense_numbers(dense_array(partial(plain_column, table), feature, where), feature)
                _check_range(values_R, feature, where)
            return table, decode(table, outcomes, where)
        except BadValueError as error:
            if reading.on_bad_value != "skip":
                raise with_way_out(reading, error) from error
            table = without_rows(table, error.is_bad_N)


def _quantiles(parts: list[Float64], count: int) -> tuple[float, ...]:
    """Boundaries of `count` buckets of equally many values, each a value itself; fewer where many are alike."""
    values = np.concatenate([np.zeros(0), *parts])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return (0.0,)
    shares = np.arange(1, count) / count
    edges = np.quantile(values, shares, method="inverted_cdf")
    different = np.unique(values)
    # The smallest value bounds nothing: what many rows share is told from all that is larger.
    edges = np.unique(np.where(edges == different[0], different[min(1, len(different) - 1)], edges))
    return tuple(edges.tolist())


def _check_range(values_R: Float64, feature: DenseFeature, where: Where) -> None:
    """Raises BadValueError if mean or scale would be measured on a value beyond float32, such as a 1e308 in place of a
    null.

    The square of one may overflow even float64: the scale would be infinite, and the column 0 in every row.
    """
    if "none" not in _transforms(feature) or None not in (feature.mean, feature.scale):
        return

    too_large_R = np.isfinite(values_R) & (np.abs(values_R) > LARGEST)
    if too_large_R.any():
        place = int(np.argmax(too_large_R))
        is_bad_R = np.any(too_large_R.reshape(-1, feature.size or 1), axis=1)
        found = f"column {feature.column!r} is {values_R[place]:g}, more than {LARGEST:.2g}, the largest float32"
        advice = "write null where it is no value, or set transform = 'log1p'"
        message = f"{where(int(np.argmax(is_bad_R)))}: {found}; {advice}"
        raise BadValueError(message, feature.column, "more than float32 holds", is_bad_R)


def _transforms(feature: DenseFeature) -> tuple[Transform, ...]:
    """Those that may become the feature's: its own, or both where it names neither transform, mean nor scale."""
    if feature.transform is not None:
        return (feature.transform,)
    is_open = feature.mean is None and feature.scale is None
    return ("none", "log1p") if is_open else ("none",)


def moments(values_R: Float64, weights_R: NDArray[np.floating] | None = None) -> Moments:
    """Of the values that are finite; without weights each counts as 1."""
    weights_R = np.ones(len(values_R)) if weights_R is None else weights_R
    counts_R = np.isfinite(values_R) & (weights_R > 0)
    values_R = values_R[counts_R]
    weights_R = weights_R[counts_R].astype(np.float64)
    if len(values_R) == 0:
        return Moments()

    weight = float(weights_R.sum())
    first = float(values_R[0])  # a clock in milliseconds has no digits left for squares of its values
    distance_R = values_R - first
    mean = float((distance_R * weights_R).sum()) / weight  # not by BLAS, whose threads go on spinning for a while
    squares = float((np.square(distance_R - mean) * weights_R).sum())

    return Moments(
        mean=first + mean,
        deviation=math.sqrt(squares / weight),
        weight=weight,
        count=len(values_R),
        low=float(values_R.min()),
        high=float(values_R.max()),
    )


def join(one: Moments, other: Moments) -> Moments:
    """Moments of both sets of values together (Chan, Golub, LeVeque, 1983: no cancellation, whatever the mean)."""
    weight = one.weight + other.weight
    if weight == 0:
        return Moments()

    share = other.weight / weight
    distance = other.mean - one.mean
    within = (1 - share) * one.deviation**2 + share * other.deviation**2
    between = share * (1 - share) * distance**2

    return Moments(
        mean=one.mean + share * distance,
        deviation=math.sqrt(within + between),
        weight=weight,
        count=one.count + other.count,
        low=min(one.low, other.low),
        high=max(one.high, other.high),
    )


def sampled_groups(rows: Int64) -> list[int]:
    """Row groups with about ROWS rows between them, at evenly spaced rows. `rows`: of each group."""
    num_groups = len(rows)
    num_rows = int(rows.sum())
    if num_rows <= ROWS:
        return np.flatnonzero(rows).tolist()

    wanted = min(math.ceil(num_groups * ROWS / num_rows), num_groups)
    odd = 2 * np.arange(wanted) + 1
    places = odd * num_rows // (2 * wanted)  # the middles of `wanted` equal stretches
    groups = np.searchsorted(np.cumsum(rows), places, side="right")

    return np.unique(groups).tolist()


def _sample(reading: Reading) -> Iterator[tuple[pa.Table, Where]]:
    """The sampled rows block by block, and how to name a row of each; passes over unreadable ones if training does."""
    manifest = reading.manifest
    features = reading.columns.features
    bucketed = tuple(feature for feature in features.sparse if feature.asked_quantiles)
    features = Features(sparse=bucketed, dense=features.dense)
    names = replace(reading.columns, features=features).names

    groups = sampled_groups(np.minimum(manifest.rows, MOST_ROWS))
    share = manifest.num_rows if manifest.num_rows <= ROWS else max(MOST_ROWS, -(-ROWS // len(groups)))

    with closing(BlockReader(manifest, names)) as blocks:
        for group in groups:
            for begin in range(0, min(int(manifest.rows[group]), share), MOST_ROWS):
                task = rows_of_group(manifest, group, begin, MOST_ROWS)
                try:
                    table = blocks.read(task)
                except UnreadableError:
                    if reading.on_bad_file == "fail":
                        raise
                    break
                yield table, _row_namer(manifest, group, begin)


def _row_namer(manifest: Manifest, group: int, begin: int) -> Callable[[int], str]:
    return lambda row: f"row {begin + row} of {manifest.describe(group)}"
