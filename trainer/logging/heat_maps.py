"""Heat maps as pictures, for TensorBoard and as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from data.storage.files import replaced
from trainer.run.matrices import LevelWeights

_DPI = 120


class HeatMap(NamedTuple):
    """Named rows and columns of numbers; None leaves a cell empty."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    numbers: Sequence[Sequence[float | None]]


def fusion_maps(levels: Sequence[LevelWeights]) -> list[HeatMap]:
    """How much each output of each level takes from each expert."""
    return [
        HeatMap(f"level {number}: mean weight on each expert", level.units, level.experts, level.weights)
        for number, level in enumerate(levels)
    ]


def draw(maps: Sequence[HeatMap]) -> NDArray[Any]:
    """A picture of the maps, one below the other: height x width x RGBA."""
    canvas = FigureCanvasAgg(_figure(maps))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def save(pixels_HW4: NDArray[Any], image: Path) -> None:
    """Writes a picture as PNG, in one step."""
    image.parent.mkdir(parents=True, exist_ok=True)
    with replaced(image) as file:
        imsave(file, pixels_HW4, format="png", dpi=_DPI)


def _figure(maps: Sequence[HeatMap]) -> Figure:
    num_rows = [len(each.rows) for each in maps]
    width = 2 + 0.6 * max(len(each.columns) for each in maps)
    height = sum(0.8 + 0.45 * rows for rows in num_rows)

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")

    all_axes = figure.subplots(len(maps), 1, squeeze=False, height_ratios=num_rows)[:, 0]
    for each, axes in zip(maps, all_axes, strict=True):
        axes.set_title(each.title, fontsize=9)
        _draw_map(axes, each)

    return figure


def _draw_map(axes: Axes, heat_map: HeatMap) -> None:
    """One map, with the number in each cell."""
    numbers = np.array(heat_map.numbers, dtype=np.float64)

    # Symmetric limits put 0 at the white middle of the colour map.
    largest = float(np.nan_to_num(np.abs(numbers)).max(initial=0)) or 1.0
    axes.imshow(numbers, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")

    axes.set_xticks(range(len(heat_map.columns)), heat_map.columns, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(heat_map.rows)), heat_map.rows, fontsize=8)

    for (row, column), number in np.ndenumerate(numbers):
        if not np.isnan(number):
            is_dark = abs(number) > 0.6 * largest
            colour = "white" if is_dark else "black"
            axes.text(column, row, f"{number:.2f}", ha="center", va="center", fontsize=7, color=colour)
