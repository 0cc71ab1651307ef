"""The section of the report that says whether the tasks conflict: their gradients, and how they are balanced."""

from collections.abc import Iterator
from itertools import combinations

from trainer.analysis.report.charts import Chart
from trainer.analysis.report.figures import figures, first_and_last
from trainer.analysis.report.heat_maps import heat_map
from trainer.analysis.report.html import Content, decimal, element, paragraph
from trainer.analysis.report.lines import Line
from trainer.analysis.report.run_records import RunRecords
from trainer.run.matrices import Conflicts
from trainer.run.records import COSINE, LENGTH, WEIGHT

MAPS = 4
"""Heat maps of a run: of its newest evaluations."""
PAIRS = 6
"""Of tasks that are named or drawn: those that conflict most. 20 tasks make 190."""


def conflict_figures(runs: list[RunRecords]) -> list[Content]:
    """Cosines, weights and lengths of each run that has some; nothing if none has."""
    contents: list[Content] = []
    for run in runs:
        of_run = [*_cosine_maps(run), *_curves(run)]
        if of_run:
            title = f"{run.name} ({run.config.model.head}, {run.config.balance.method})"
            contents += [element("h3", title), *of_run]
    return contents


def _cosine_maps(run: RunRecords) -> list[Content]:
    if not run.conflicts:
        return []

    shown = run.conflicts[-MAPS:]
    pairs = [cosine for record in shown for _, cosine, _ in _pairs(record)]
    largest = max(map(abs, pairs), default=0.0)
    maps = []
    for record in shown:
        caption = f"Cosines from {record.since:,} to {record.samples:,} samples, means over {_steps(record)}"
        maps.append(heat_map(caption, record.tasks, record.tasks, record.cosines, corner="task", largest=largest))

    note = (
        "A cosine below 0: a step that helps the one task harms the other in what they share; near 0 it hardly touches "
        "it. Gradients are those of whole batches, where the tasks meet (balance.at)."
    )
    return [paragraph(_verdict(run.conflicts[-1])), element("div", *maps, class_="figures wide"), paragraph(note)]


def _verdict(record: Conflicts) -> str:
    """The answer in words, at the newest evaluation."""
    pairs = _pairs(record)
    when = f"From {record.since:,} to {record.samples:,} samples ({_steps(record)} looked at)"
    if not pairs:
        return f"{when}: no two tasks had gradients."

    against = [pair for pair in pairs if pair[1] < 0]
    if not against:
        return f"{when}, no two tasks conflict on average; the least agreement: {_in_words(pairs[:1])}."

    of_all = f"{len(against)} of {len(pairs)} pairs of tasks conflict on average"
    most = "the most: " if len(against) > PAIRS else ""
    return f"{when}, {of_all}: {most}{_in_words(against[:PAIRS])}."


def _pairs(record: Conflicts) -> list[tuple[str, float, float]]:
    """(names, mean cosine, share of steps below 0) of each two tasks, from the most conflict to the least."""
    pairs = []
    for (row, one), (column, other) in combinations(enumerate(record.tasks), 2):
        cosine, share = record.cosines[row][column], record.below_zero[row][column]
        if cosine is not None and share is not None:
            pairs.append((f"{one} and {other}", cosine, share))
    return sorted(pairs, key=lambda pair: pair[1])


def _in_words(pairs: list[tuple[str, float, float]]) -> str:
    return "; ".join(
        f"{names} (mean cosine {decimal(cosine, '.3f')}, below 0 in {share:.0%} of the steps)"
        for names, cosine, share in pairs
    )


def _steps(record: Conflicts) -> str:
    return "1 step" if record.steps == 1 else f"{record.steps:,} steps"


def _curves(run: RunRecords) -> list[Content]:
    """Of the newest step at each log point."""
    cosines = list(_lines(run, COSINE))
    named = f"The {PAIRS} pairs that conflict most" if len(cosines) > PAIRS else "Cosines of gradients"
    cosines = sorted(cosines, key=_mean)[:PAIRS]
    lines_of_charts = [
        (named, "below 0: conflict; of one step at each log point", cosines, 0.0),
        ("Lengths of gradients", "of one step at each log point", list(_lines(run, LENGTH)), None),
        ("Weights of the tasks", "1: as without balancing", list(_lines(run, WEIGHT)), 1.0),
    ]
    charts = [_chart(run, *parts) for parts in lines_of_charts if parts[2]]
    return figures([*charts], "") if charts else []


def _chart(run: RunRecords, title: str, note: str, lines: list[Line], reference: float | None) -> Chart:
    styled = [Line(line.name, line.points, style) for style, line in enumerate(lines)]
    texts = [f"{line.name} {first_and_last(line.points)}" for line in styled]
    return Chart(title, note, f"{run.name}: {'; '.join(texts)}", styled, reference)


def _lines(run: RunRecords, begin: str) -> Iterator[Line]:
    """One for each key of the training records that begins so."""
    keys = dict.fromkeys(key for window in run.windows for key in window.figures if key.startswith(f"{begin}/"))
    for key in keys:
        _, *tasks = key.split("/")
        yield Line(" and ".join(tasks), run.curve(key), 0)


def _mean(line: Line) -> float:
    return sum(value for _, value in line.points) / max(len(line.points), 1)
