"""The part of the report that decides: heads against the first run's, and every evaluation in numbers."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from data.errors import ExpectedError
from trainer.analysis.compare.compare import Difference, compare_runs
from trainer.analysis.compare.seed_groups import Group, Run, group_runs, read_run
from trainer.analysis.compare.table import comparison_notes, unit_text
from trainer.analysis.report.charts import Chart, Line, line_chart
from trainer.analysis.report.html import Content, decimal, element, folded, paragraph, table
from trainer.analysis.report.run_records import Evaluation, RunRecords
from trainer.evaluation.auc import margin

UNDEFINED = "–"
PERCENT = "\N{NO-BREAK SPACE}%"
SINGLE = (
    "Lower, higher: two trained models differ on such test rows. Whether their heads differ cannot be told from one "
    "training on each side; that takes several seeds."
)
COLUMNS = {
    "ne": "NE",
    "oracle_ne": "best NE",
    "log_loss": "log loss",
    "auc": "AUC",
    "mse": "MSE",
    "oracle_mse": "best MSE",
    "nmse": "normalised MSE",
    "calibration": "calibration",
}
"""Metrics of an evaluation, where some run has them; best: what the true mean of a synthetic label scores."""


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
    found: list[Run] = []
    problems: list[str] = []
    for run in runs:
        try:
            found.append(read_run(str(run.path)))
        except ExpectedError as error:
            problems.append(str(error))
    groups = _groups(found, problems) if found and Path(found[0].path) == runs[0].path else []
    differences: list[Difference] = []
    for group in groups[1:]:
        try:
            comparison = compare_runs(groups[0].name, [run.path for run in group.runs])
        except ExpectedError as error:
            problems.append(str(error))
        else:
            differences += comparison.differences
            problems += comparison.warnings
    known = {str(run.path): run.name for run in runs}
    names = {group.name: ", ".join(known[run.path] for run in group.runs) for group in groups}
    looks = {str(run.path): run.style for run in runs}
    styles = {group.name: min(looks[run.path] for run in group.runs) for group in groups}
    return Comparisons(differences, names, styles, list(dict.fromkeys(problems)))


def _groups(runs: list[Run], problems: list[str]) -> list[Group]:
    try:
        return group_runs(runs)
    except ExpectedError as error:
        problems.append(str(error))
        return []


def verdicts(comparisons: Comparisons) -> Element | None:
    """What came out, a sentence for each head, at the last milestone that it shares with the first run."""
    lines = []
    for run in dict.fromkeys(entry.run for entry in comparisons.differences):
        of_run = [entry for entry in comparisons.differences if entry.run == run]
        last = max(of_run, key=lambda entry: entry.samples).column
        lines.append(element("li", *_verdict(comparisons, [entry for entry in of_run if entry.column == last])))
    if any(entry.significant is None and entry.one_sided for entry in comparisons.differences):
        lines.append(element("li", SINGLE, class_="quiet"))
    return element("ul", *lines, class_="verdicts") if lines else None


def _verdict(comparisons: Comparisons, differences: list[Difference]) -> list[Content]:
    first = differences[0]
    text: list[Content] = [
        element("strong", f"{first.head} ({comparisons.names[first.run]})"),
        f" against {first.baseline_head} ({comparisons.names[first.baseline]}) at {first.column} samples: ",
    ]
    told: list[Content] = []
    for word in ("better", "worse", "lower", "higher", "not told apart", "not defined"):
        tasks = [_with_percent(entry) for entry in differences if _word(entry) == word]
        if tasks:
            told += ["; " if told else "", element("span", word, class_=_colour(word)), f" on {', '.join(tasks)}"]
    return [*text, *told, "."]


def _with_percent(entry: Difference) -> str:
    return (
        entry.task
        if entry.relative_percent is None
        else f"{entry.task} ({decimal(entry.relative_percent, '+z.3f')}{PERCENT})"
    )


def _word(entry: Difference) -> str:
    """As in `adatt compare`: better and worse are said of heads, lower and higher of two trained models."""
    if entry.relative_percent is None:
        return "not defined"
    if not entry.one_sided:
        return "not told apart"
    words = ("lower", "higher") if entry.significant is None else ("better", "worse")
    return words[entry.relative_percent > 0]


def _colour(word: str) -> str | None:
    return {"better": "better", "lower": "better", "worse": "worse", "higher": "worse"}.get(word)


def number(value: float | None) -> str:
    """A metric with four decimals."""
    return UNDEFINED if value is None else decimal(value)


def comparison_tables(comparisons: Comparisons) -> list[Content]:
    """A table for each milestone, heads × tasks, the last one on top; and how to read them."""
    differences = sorted(comparisons.differences, key=lambda entry: -entry.samples)
    columns = list(dict.fromkeys(entry.column for entry in differences))
    tables: list[Content] = [
        _milestone_table(comparisons, [entry for entry in comparisons.differences if entry.column == column])
        for column in columns
    ]
    earlier = folded(f"Earlier milestones ({len(tables) - 1})", *tables[1:]) if len(tables) > 1 else None
    figures = [_relative_chart(comparisons, task) for task in dict.fromkeys(entry.task for entry in differences)]
    notes = [paragraph(note) for note in comparison_notes(differences)] if differences else []
    drawn = element("div", *map(line_chart, figures), class_="figures") if figures else None
    return [*tables[:1], earlier, *notes, drawn, *_problem_list(comparisons.problems)]


def _problem_list(problems: list[str]) -> list[Content]:
    if not problems:
        return []
    return [paragraph("Not compared, or only in part:"), element("ul", *(element("li", line) for line in problems))]


def _milestone_table(comparisons: Comparisons, differences: list[Difference]) -> Element:
    first, tasks = differences[0], dict.fromkeys(entry.task for entry in differences)
    base = {entry.task: entry for entry in differences}
    rows: list[list[Content]] = [
        [
            _head(first.baseline_head, comparisons.names[first.baseline]),
            *(number(base[task].baseline_value) for task in tasks),
        ]
    ]
    for run in dict.fromkeys(entry.run for entry in differences):
        cells = {entry.task: entry for entry in differences if entry.run == run}
        head = next(iter(cells.values())).head
        rows.append([_head(head, comparisons.names[run]), *(_cell(cells.get(task)) for task in tasks)])
    titles = [f"{task} ({base[task].metric.upper()})" for task in tasks]
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
    told: list[str] = []
    for run in dict.fromkeys(entry.run for entry in entries):
        shown = [entry for entry in entries if entry.run == run and entry.low_percent is not None]
        points = [(float(entry.samples), (entry.relative_percent or 0.0) / 100) for entry in shown]
        intervals = [((entry.low_percent or 0.0) / 100, (entry.high_percent or 0.0) / 100) for entry in shown]
        head = next(entry.head for entry in entries if entry.run == run)
        name = f"{head} ({comparisons.names[run]})"
        lines.append(Line(name, points, comparisons.styles[run], intervals=intervals))
        told += [f"{name} at {entry.column}: {_with_interval(entry)}" for entry in shown]
    first = entries[0]
    note = (
        f"{first.metric.upper()} against {first.baseline_head} with 95 % intervals ({unit_text(first.unit)}); "
        "below 0 is better"
    )
    return Chart(task, note, "; ".join(told), lines, reference=0.0, percent=True)


def _with_interval(entry: Difference) -> str:
    return f"{entry.relative_percent:+z.3f} %, from {entry.low_percent:+z.3f} to {entry.high_percent:+z.3f} %"


def _cell(entry: Difference | None) -> Content:
    if entry is None or entry.relative_percent is None:
        return UNDEFINED
    error = "" if entry.standard_error_percent is None else f" ± {entry.standard_error_percent:.3f}"
    word = _word(entry)
    mark = element("span", f" {word}", class_=_colour(word)) if entry.one_sided else None
    interval = "too few rows for an interval"
    if entry.low_percent is not None and entry.high_percent is not None:
        interval = f"[{decimal(entry.low_percent, '+z.3f')}, {decimal(entry.high_percent, '+z.3f')}]"
    return element(
        "span",
        f"{decimal(entry.relative_percent, '+z.3f')}{PERCENT}{error}",
        mark,
        element("small", interval),
        element("small", number(entry.value)),
    )


def evaluation_tables(runs: list[RunRecords], *, opened: bool) -> list[Content]:
    """Every evaluation of every run, a table for each task."""
    tasks = dict.fromkeys(found.task for run in runs for found in run.evaluations)
    return [folded(f"Every evaluation of {task}", _evaluation_table(runs, task), opened=opened) for task in tasks]


def _evaluation_table(runs: list[RunRecords], task: str) -> Element:
    found = [(e.samples, index, e) for index, run in enumerate(runs) for e in run.evaluations if e.task == task]
    found.sort(key=lambda entry: entry[:2])
    shown = {key: title for key, title in COLUMNS.items() if any(getattr(e, key) is not None for *_, e in found)}
    rows = [
        [_point(e), runs[index].name, *(_metric(e, key) for key in shown), f"{e.examples:,}"] for _, index, e in found
    ]
    return table("On the whole test set", ["samples", "run", *shown.values(), "test examples"], rows, words=["run"])


def _metric(found: Evaluation, key: str) -> str:
    return number(getattr(found, key)) + (margin(found.auc_error) if key == "auc" else "")


def _point(found: Evaluation) -> str:
    return found.milestone or f"{found.samples:,}, the end"


def tables_by_value(runs: list[RunRecords]) -> list[Content]:
    """The newest evaluation of every run for each value of the columns in `evaluate.by`, a table for each task."""
    found = dict.fromkeys((entry.by, entry.task) for run in runs for entry in run.by_value)
    return [folded(f"{task} by {by}", _table_by_value(runs, str(by), task)) for by, task in found]


def _table_by_value(runs: list[RunRecords], by: str, task: str) -> Element:
    of_runs = [{entry.value: entry for entry in run.by_value if (entry.by, entry.task) == (by, task)} for run in runs]
    values = dict.fromkeys(value for entries in of_runs for value in entries)
    metric = next("NE" if entry.kind == "binary" else "MSE" for entries in of_runs for entry in entries.values())
    rows = []
    for value in values:
        entries = [entries.get(value) for entries in of_runs]
        examples = max(entry.examples for entry in entries if entry)
        metrics = (number(entry.main) if entry else UNDEFINED for entry in entries)
        rows.append([UNDEFINED if value is None else str(value), f"{examples:,}", *metrics])
    return table(f"{metric} at each run's newest evaluation", [by, "test examples", *(run.name for run in runs)], rows)
