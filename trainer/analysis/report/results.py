"""The part of the report that decides: heads against the first run's."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from data.errors import ExpectedError
from trainer.analysis.compare.compare import Difference, compare_runs
from trainer.analysis.compare.seed_groups import Group, Run, group_runs, read_run
from trainer.analysis.compare.table import comparison_notes, unit_text
from trainer.analysis.report.charts import Chart, line_chart
from trainer.analysis.report.evaluations import UNDEFINED, number
from trainer.analysis.report.html import Content, decimal, element, folded, paragraph, table
from trainer.analysis.report.lines import Line
from trainer.analysis.report.run_records import RunRecords

PERCENT = "\N{NO-BREAK SPACE}%"
SINGLE = (
    "Lower, higher: two trained models differ on such test rows. Whether their heads differ cannot be told from one "
    "training on each side; that takes several seeds."
)
WORDS = ("better", "worse", "lower", "higher", "not told apart", "not defined")
"""What is said of differences, in the order in which a verdict says it."""


@dataclass(frozen=True)
class Comparisons:
    """The heads against that of the first run."""

    differences: list[Difference]
    names: dict[str, str]
    """Of the runs of a head, by their paths as differences name them."""
    styles: dict[str, int]
    """Of the first of them, by the same: the head's line looks like that run's."""
    problems: list[str]
    """Why something is not compared, and what was left out."""


def compare_with_first(runs: list[RunRecords]) -> Comparisons:
    """Compares what can be compared with the first run; never fails."""
    problems: list[str] = []
    groups = _groups(runs, problems)
    differences: list[Difference] = []

    for group in groups[1:]:
        try:
            comparison = compare_runs(groups[0].name, [run.path for run in group.runs])
        except ExpectedError as error:
            problems.append(str(error))
        else:
            differences += comparison.differences
            problems += comparison.warnings

    by_path = {str(run.path): run for run in runs}
    names: dict[str, str] = {}
    styles: dict[str, int] = {}

    for group in groups:
        of_group = [by_path[run.path] for run in group.runs]
        names[group.name] = ", ".join(run.name for run in of_group)
        styles[group.name] = min(run.style for run in of_group)

    return Comparisons(differences, names, styles, list(dict.fromkeys(problems)))


def _groups(runs: list[RunRecords], problems: list[str]) -> list[Group]:
    """The runs that have been evaluated, by head; none if the first, the baseline, is not among them."""
    evaluated: list[Run] = []
    for run in runs:
        try:
            evaluated.append(read_run(str(run.path)))
        except ExpectedError as error:
            problems.append(str(error))

    if not evaluated or Path(evaluated[0].path) != runs[0].path:
        return []

    try:
        return group_runs(evaluated)
    except ExpectedError as error:
        problems.append(str(error))
        return []


def verdicts(comparisons: Comparisons) -> Element | None:
    """What came out, a sentence for each head, at the last milestone that it shares with the first run."""
    lines = []
    for of_run in _by_run(comparisons.differences).values():
        last = max(of_run, key=lambda entry: entry.samples).column
        at_last = [entry for entry in of_run if entry.column == last]
        lines.append(element("li", *_verdict(comparisons, at_last)))

    if any(entry.significant is None and entry.one_sided for entry in comparisons.differences):
        lines.append(element("li", SINGLE, class_="quiet"))

    return element("ul", *lines, class_="verdicts") if lines else None


def _by_run(differences: list[Difference]) -> dict[str, list[Difference]]:
    of_runs: dict[str, list[Difference]] = {}
    for entry in differences:
        of_runs.setdefault(entry.run, []).append(entry)
    return of_runs


def _verdict(comparisons: Comparisons, differences: list[Difference]) -> list[Content]:
    first = differences[0]
    names = comparisons.names
    head = element("strong", f"{first.head} ({names[first.run]})")
    against = f" against {first.baseline_head} ({names[first.baseline]}) at {first.column} samples: "

    findings: list[Content] = []
    for word in WORDS:
        tasks = [_with_percent(entry) for entry in differences if entry.verdict == word]
        if tasks:
            separator = "; " if findings else ""
            findings += [separator, element("span", word, class_=_colour(word)), f" on {', '.join(tasks)}"]

    return [head, against, *findings, "."]


def _with_percent(entry: Difference) -> str:
    if entry.relative_percent is None:
        return entry.task
    return f"{entry.task} ({_signed(entry.relative_percent)}{PERCENT})"


def _signed(percent: float) -> str:
    """A relative difference with its sign; a zero has no minus."""
    return decimal(percent, "+z.3f")


def _colour(word: str) -> str | None:
    return {"better": "better", "lower": "better", "worse": "worse", "higher": "worse"}.get(word)


def comparison_tables(comparisons: Comparisons) -> list[Content]:
    """A table for each milestone, heads × tasks, the last one on top; and how to read them."""
    latest_first = sorted(comparisons.differences, key=lambda entry: -entry.samples)
    tables: list[Content] = []

    for column in dict.fromkeys(entry.column for entry in latest_first):
        at_column = [entry for entry in comparisons.differences if entry.column == column]
        tables.append(_milestone_table(comparisons, at_column))

    earlier = folded(f"Earlier milestones ({len(tables) - 1})", *tables[1:]) if len(tables) > 1 else None
    notes = [paragraph(note) for note in comparison_notes(latest_first)] if latest_first else []
    tasks = dict.fromkeys(entry.task for entry in latest_first)
    charts = [line_chart(_relative_chart(comparisons, task)) for task in tasks]
    figures = element("div", *charts, class_="figures") if charts else None

    return [*tables[:1], earlier, *notes, figures, *_problem_list(comparisons.problems)]


def _problem_list(problems: list[str]) -> list[Content]:
    if not problems:
        return []
    items = [element("li", problem) for problem in problems]
    return [paragraph("Not compared, or only in part:"), element("ul", *items)]


def _milestone_table(comparisons: Comparisons, differences: list[Difference]) -> Element:
    first = differences[0]
    names = comparisons.names
    of_tasks = {entry.task: entry for entry in differences}
    baseline = [number(entry.baseline_value) for entry in of_tasks.values()]
    rows: list[list[Content]] = [[_head(first.baseline_head, names[first.baseline]), *baseline]]

    for run, of_run in _by_run(differences).items():
        of_task = {entry.task: entry for entry in of_run}
        cells = [_cell(of_task.get(task)) for task in of_tasks]
        rows.append([_head(of_run[0].head, names[run]), *cells])

    titles = [f"{task} ({entry.metric.upper()})" for task, entry in of_tasks.items()]
    caption = (
        f"At {first.column} samples: the baseline's values, and the others' relative difference to them "
        f"({unit_text(first.unit)})"
    )
    return table(caption, ["head", *titles], rows)


def _head(name: str, runs: str) -> Element:
    return element("span", name, element("small", runs))


def _relative_chart(comparisons: Comparisons, task: str) -> Chart:
    """The heads' differences to the baseline at each milestone."""
    entries = [entry for entry in comparisons.differences if entry.task == task]
    lines: list[Line] = []
    texts: list[str] = []

    for run, of_run in _by_run(entries).items():
        name = f"{of_run[0].head} ({comparisons.names[run]})"
        shown = [entry for entry in of_run if entry.low_percent is not None]
        lines.append(_relative_line(name, shown, comparisons.styles[run]))
        texts += [f"{name} at {entry.column}: {_with_interval(entry)}" for entry in shown]

    first = entries[0]
    note = (
        f"{first.metric.upper()} against {first.baseline_head} with 95 % intervals ({unit_text(first.unit)}); "
        "below 0 is better"
    )
    return Chart(task, note, "; ".join(texts), lines, reference=0.0, percent=True)


def _relative_line(name: str, entries: list[Difference], style: int) -> Line:
    """Relative differences as fractions, with their intervals."""
    points: list[tuple[float, float]] = []
    intervals: list[tuple[float, float]] = []

    for entry in entries:
        low = entry.low_percent or 0.0
        high = entry.high_percent or 0.0
        points.append((float(entry.samples), (entry.relative_percent or 0.0) / 100))
        intervals.append((low / 100, high / 100))

    return Line(name, points, style, intervals=intervals)


def _with_interval(entry: Difference) -> str:
    return f"{entry.relative_percent:+z.3f} %, from {entry.low_percent:+z.3f} to {entry.high_percent:+z.3f} %"


def _cell(entry: Difference | None) -> Content:
    if entry is None or entry.relative_percent is None:
        return UNDEFINED

    text = f"{_signed(entry.relative_percent)}{PERCENT}"
    if entry.standard_error_percent is not None:
        text += f" ± {entry.standard_error_percent:.3f}"

    mark = element("span", f" {entry.verdict}", class_=_colour(entry.verdict)) if entry.one_sided else None

    interval = "too few rows for an interval"
    if entry.low_percent is not None and entry.high_percent is not None:
        interval = f"[{_signed(entry.low_percent)}, {_signed(entry.high_percent)}]"

    return element("span", text, mark, element("small", interval), element("small", number(entry.value)))
