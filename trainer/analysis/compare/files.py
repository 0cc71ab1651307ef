"""A comparison as files: tables in Markdown, records as JSON, and a curve per task."""

import json
import re
import warnings
from dataclasses import asdict
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.analysis.compare.compare import Comparison, Difference
from trainer.analysis.compare.table import Grid, comparison_grids, comparison_notes, folder_names, unit_text
from trainer.console import visible
from trainer.errors import DISK_FULL, ConfigError

_ENTITIES = {"&": "&amp;", "<": "&lt;"}


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Writes compare.md, compare.json (a record a line) and TASK.png.

    Raises ConfigError if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "compare.md").write_text(markdown(comparison), encoding="utf-8")
        (folder / "compare.json").write_text("".join(json_lines(comparison)), encoding="utf-8")
        with warnings.catch_warnings(), rc_context({"text.parse_math": False}):  # a name may hold dollar signs
            warnings.filterwarnings(
                "ignore", message="Glyph .* missing from font"
            )  # a name of a folder; drawn as a box
            for task in dict.fromkeys(entry.task for entry in comparison.differences):
                curve(comparison, task).savefig(folder / f"{task}.png", dpi=150)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise ConfigError(f"--out {str(folder)!r} cannot be written ({error.strerror}); name a folder") from error


def json_lines(comparison: Comparison) -> list[str]:
    """One object a line."""
    return [json.dumps(asdict(entry)) + "\n" for entry in comparison.differences]


def markdown(comparison: Comparison) -> str:
    """The tables, each with its curve below, and how to read them."""
    grids = comparison_grids(comparison.differences)
    parts = ["# Comparison"]
    for grid in grids:
        parts += [_markdown_table(grid), f"![{grid.task}]({grid.task}.png)"]
    parts += map(escaped, comparison_notes(comparison.differences))
    return "\n\n".join(parts) + "\n"


def _markdown_table(grid: Grid) -> str:
    num_columns = len(grid.header) - 2  # behind the head and its runs; numbers, aligned to the right
    alignment = ["---", "---", *["---:"] * num_columns]
    rows = [grid.header, alignment, *grid.rows]
    lines = ["| " + " | ".join(map(escaped, row)) + " |" for row in rows]
    return "\n".join([f"## {escaped(grid.title)}", "", *lines])


def escaped(text: str) -> str:
    """Text of a Markdown table or paragraph, whatever the names of folders and columns hold.

    Brackets alone stay as they are, since intervals have them: they are a link only before another one.
    """
    one_line = visible(" ".join(text.split()))
    text = re.sub(r"[\\`*|&<]", lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), one_line)
    return re.sub(r"\](?=[(\[:])", r"\]", text)


def curve(comparison: Comparison, task: str) -> Figure:
    """The task's relative NE or MSE against samples, a line for each head, its interval as a band."""
    entries = [entry for entry in comparison.differences if entry.task == task]
    shown = [entry for entry in entries if entry.relative_percent is not None]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color="black", linestyle="--", linewidth=1)

    for run in dict.fromkeys(entry.run for entry in shown):
        _draw(axes, [entry for entry in shown if entry.run == run])

    samples = {entry.column: entry.samples for entry in entries}
    axes.set_xticks(list(samples.values()), list(samples))
    axes.set_xlabel("samples trained")
    axes.set_ylabel(f"{entries[0].metric.upper()} relative to {entries[0].baseline_head}, %")
    units = " and ".join(dict.fromkeys(unit_text(entry.unit) for entry in entries))
    axes.set_title(f"{task}: bands are 95 % intervals ({units}), lower is better")

    if shown:
        figure.legend(loc="outside lower center")

    return figure


def _draw(axes: Axes, entries: list[Difference]) -> None:
    samples = [entry.samples for entry in entries]
    middle = [entry.relative_percent or 0.0 for entry in entries]
    low: list[float] = []
    high: list[float] = []

    for entry, value in zip(entries, middle, strict=True):
        low.append(value if entry.low_percent is None else entry.low_percent)
        high.append(value if entry.high_percent is None else entry.high_percent)

    below = [max(value - bound, 0) for value, bound in zip(middle, low, strict=True)]
    above = [max(bound - value, 0) for value, bound in zip(middle, high, strict=True)]
    label = visible(f"{entries[0].head} ({folder_names(entries[0].run)})")
    bars = axes.errorbar(samples, middle, yerr=[below, above], marker="o", capsize=4, label=label)
    axes.fill_between(samples, low, high, alpha=0.15, color=bars.lines[0].get_color())
