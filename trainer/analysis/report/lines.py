"""The lines of a chart, with no more points than it can show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POINTS = 200
"""Most points of a line: one for each two units of width."""
SMOOTHED = 20
"""A value of a faint line is the mean of a SMOOTHED-th of all, around it."""


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(samples, value), by samples; what is not finite is left out."""
    style: int
    """Number of its colour, dashes and marker."""
    faint: bool = False
    """In the background: without markers and legend, and its outliers do not stretch the axis."""
    intervals: Sequence[tuple[float, float]] = ()
    """(low, high) of each point, all finite, for a line of few points; or none."""


def thinned(line: Line) -> Line:
    """Without what is not finite, and with means of neighbours where there are too many points."""
    if line.intervals:
        return line

    finite = [point for point in line.points if all(map(math.isfinite, point))]
    points = np.array(finite).reshape(-1, 2)
    if line.faint:
        points = _smoothed(points)

    if len(points) > POINTS:
        means = [part.mean(axis=0) for part in np.array_split(points, POINTS)]
        points = np.stack(means)

    pairs = [(float(x), float(y)) for x, y in points]
    return Line(line.name, pairs, line.style, line.faint)


def _smoothed(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value as the mean of those around it, a twentieth of all; fewer at both ends."""
    around = len(points) // SMOOTHED
    if around < 2:
        return points

    # At the ends the window reaches beyond the points: dividing by how many lie in it keeps the mean right.
    kernel = np.ones(around)
    sums = np.convolve(points[:, 1], kernel, "same")
    counts = np.convolve(np.ones(len(points)), kernel, "same")

    return np.stack([points[:, 0], sums / counts], axis=1)
