"""`adatt report`: runs side by side on one HTML page that opens from disk, for those who decide.

    records of each run (run_records) ─► tables, figures (html_results, html_events, plots) ─► page (html_page)

Whatever a run does not have yet is said in words.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Any
from xml.etree.ElementTree import Element

from models.tasks import TaskConfig
from trainer.analysis.report.charts import Chart, Line, heat_map, line_chart
from trainer.analysis.report.datasets import data_tables
from trainer.analysis.report.html import (
    Content,
    check_target,
    decimal,
    element,
    folded,
    page,
    paragraph,
    section,
    table,
    write_page,
)
from trainer.analysis.report.results import (
    UNDEFINED,
    compare_with_first,
    comparison_tables,
    evaluation_tables,
    number,
    tables_by_value,
    verdicts,
)
from trainer.analysis.report.run_records import FusionLevel, RunRecords, read_all_records
from trainer.analysis.report.timeline import state, timeline
from trainer.run.directory import plain

Curve = list[tuple[float, float]]
SECTIONS = {
    "configuration": "Configuration",
    "data": "Data",
    "results": "Results",
    "curves": "Learning curves",
    "calibration": "Calibration",
    "fusion": "Fusion weights",
    "speed": "Speed",
    "events": "Events",
}
MANY_ROWS = 25
"""Longer tables of the configuration are folded."""
FEW_RUNS = 4
"""Intervals of more runs would hide one another."""


def write_report(paths: list[str], out: Path) -> None:
    """Writes the page about the runs in `paths`; the first is the baseline.

    ConfigError where one of them is no run or is damaged, or `out` cannot be written; then nothing is written.
    """
    check_target(out)
    write_page(out, report_page(read_all_records(paths)))


def report_page(runs: list[RunRecords]) -> Element:
    """The whole page."""
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"{_runs(len(runs) - 1)} against {runs[0].name}"
    comparisons = compare_with_first(runs) if len(runs) > 1 else None
    results = comparison_tables(comparisons) if comparisons else []
    tables = evaluation_tables(runs, opened=comparisons is None or not comparisons.differences)
    contents = {
        "configuration": _differences(runs) if len(runs) > 1 else _overview(runs[0]),
        "data": data_tables(runs, _tasks(runs)),
        "results": [
            *results,
            *(tables or [paragraph("No run has been evaluated yet.")]),
            *tables_by_value(runs),
        ],
        "curves": _curves(runs),
        "calibration": _calibration(runs),
        "fusion": _fusion(runs),
        "speed": _speed(runs),
        "events": list(chain.from_iterable(timeline(run, opened=len(runs) == 1) for run in runs)),
    }
    written = f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by adatt report. Lower NE and MSE are better."
    head = [
        element("h1", title),
        paragraph(written),
        verdicts(comparisons) if comparisons else None,
        _run_table(runs),
        element("nav", *(element("a", name, href=f"#{key}") for key, name in SECTIONS.items()), aria_label="Sections"),
    ]
    return page(title, [*head, *(section(key, name, *contents[key]) for key, name in SECTIONS.items())])


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _run_table(runs: list[RunRecords]) -> Element:
    head = ["run", "head", "seed", "samples trained", "planned", "state", "started (UTC)", "folder"]
    rows = [
        [
            run.name,
            run.config.model.head,
            str(run.config.run.seed),
            f"{run.samples:,}",
            f"{run.config.train.samples:,}",
            state(run),
            f"{run.segments[0].started.astimezone(UTC):%Y-%m-%d %H:%M}" if run.segments else UNDEFINED,
            str(run.path),
        ]
        for run in runs
    ]
    return table("Runs", head, rows, words=["head", "state", "started (UTC)", "folder"])


def _differences(runs: list[RunRecords]) -> list[Content]:
    """The keys in which the runs' configs differ."""
    configs = [_flat(plain(run.config)) for run in runs]
    keys = dict.fromkeys(chain.from_iterable(configs))
    rows = [
        [_key(key), *(_words(config.get(key, UNDEFINED)) for config in configs)]
        for key in keys
        if key != "run.dir" and len({config.get(key) for config in configs}) > 1
    ]
    if not rows:
        return [paragraph("The configurations are equal but for the folder.")]
    frame = table("Keys that differ", ["key", *_columns(runs)], rows, words=_columns(runs))
    return [folded(f"{len(rows)} keys differ", frame) if len(rows) > MANY_ROWS else frame]


def _columns(runs: list[RunRecords]) -> list[str]:
    return [run.name for run in runs]


def _words(text: str) -> Content:
    return element("div", text, class_="long") if len(text) > 24 else text


def _key(path: str) -> Element:
    """A key that may go on in the next line after a dot."""
    first, *rest = path.split(".")
    contents: list[Content] = [first]
    for part in rest:
        contents += [".", element("wbr"), part]
    return element("span", *contents)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Every leaf as JSON, by its path; an entry of a list goes by its name where it has one."""
    if isinstance(value, dict):
        pairs: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        pairs = [(_entry_name(entry, index), entry) for index, entry in enumerate(value)]
    else:
        return {path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
    leaves: dict[str, str] = {}
    for key, entry in pairs:
        leaves |= _flat(entry, f"{path}.{key}".strip("."))
    return leaves


def _entry_name(entry: Any, index: int) -> str:
    known = entry if isinstance(entry, dict) else {}
    return str(known.get("name") or known.get("column") or index)


def _overview(run: RunRecords) -> list[Content]:
    """What is trained: the head, tasks and tables of one run, and all keys behind a fold."""
    config = run.config
    tasks = [
        [task.name, task.kind, task.label, "yes" if task.auxiliary else "no", f"{task.loss_weight:g}"]
        for task in config.tasks
    ]
    tables = [[entry.name, f"{entry.rows:,}", str(entry.dim)] for entry in config.tables]
    keys = [[_key(key), _words(text)] for key, text in _flat(plain(config)).items()]
    head = [[key, _words(text)] for key, text in _flat(plain(config)["model"]).items()]
    parts = [
        table("Head", ["key", "value"], head, words=["value"]),
        table("Tasks", ["task", "kind", "label", "auxiliary", "weight"], tasks, words=["kind", "label", "auxiliary"]),
        table("Embedding tables", ["table", "rows", "width"], tables),
    ]
    every = table("The resolved configuration", ["key", "value"], keys, words=["value"])
    return [element("div", *parts, class_="beside"), folded(f"All {len(keys)} keys", every)]


def _tasks(runs: list[RunRecords]) -> list[TaskConfig]:
    """Evaluated tasks of all runs, each once."""
    return list({task.name: task for run in runs for task in run.config.tasks if not task.auxiliary}.values())


def _evaluated(run: RunRecords, task: str, metric: str) -> Curve:
    values = {e.samples: getattr(e, metric) for e in run.evaluations if e.task == task}
    return [(samples, value) for samples, value in values.items() if value is not None]


def _curves(runs: list[RunRecords]) -> list[Content]:
    charts = []
    for task in _tasks(runs):
        metric = "ne" if task.binary else "mse"
        charts.append(_task_chart(runs, task.name, metric, f"{metric.upper()}, lower is better"))
    return _figures(charts, "No evaluation and no training record with NE or MSE yet.")


def _calibration(runs: list[RunRecords]) -> list[Content]:
    note = "mean prediction / mean label; 1 is right"
    over_time = [_task_chart(runs, task.name, "calibration", note, reference=1.0) for task in _tasks(runs)]
    along = [_calibration_chart(runs, task.name) for task in _tasks(runs)]
    return [
        *_figures(over_time, "No calibration is recorded yet."),
        *(_figures(along, "") if any(along) else []),
    ]


def _calibration_chart(runs: list[RunRecords], task: str) -> Chart | None:
    """Observed / predicted rate at the newest evaluation, along the test rows in order of their prediction."""
    lines, told = [], []
    for run in runs:
        for curve in run.calibration.tasks if run.calibration else []:
            if curve.task == task:
                scaled = [
                    [value / predicted for value, predicted in zip(values, curve.predicted, strict=True)]
                    for values in (curve.observed, curve.low, curve.high)
                ]
                points = list(zip(curve.share, scaled[0], strict=True))
                intervals = list(zip(*scaled[1:], strict=True)) if len(runs) <= FEW_RUNS else ()
                lines.append(Line(run.name, points, run.style, intervals=intervals))
                told.append(f"{run.name} {', '.join(f'{ratio:.2f}' for _, ratio in points)}")
    if not lines:
        return None
    note = (
        "observed / predicted rate of each tenth of the test rows, from the lowest predictions to the highest; "
        "intervals take rows as independent"
    )
    text = f"Observed / predicted, by tenths: {'; '.join(told)}"
    return Chart(f"{task} along its predictions", note, text, lines, 1.0, across="test rows by prediction")


def _figures(charts: list[Chart | None], nothing: str) -> list[Content]:
    figures = [line_chart(chart) for chart in charts if chart is not None]
    return [element("div", *figures, class_="figures")] if figures else [paragraph(nothing)]


def _task_chart(
    runs: list[RunRecords], task: str, metric: str, note: str, *, reference: float | None = None
) -> Chart | None:
    """A metric on the test set at each evaluation, before that of the samples trained since the last log point."""
    tested = [Line(run.name, _evaluated(run, task, metric), run.style) for run in runs]
    trained = [Line(run.name, run.curve(f"{metric}/{task}"), run.style, faint=True) for run in runs]
    if not any(line.points for line in tested + trained):
        return None
    if any(line.points for line in trained):
        note += "; faint: on training samples, before their update, smoothed"
    told = [f"{line.name} {_first_and_last(line.points)}" for line in tested]
    return Chart(task, note, f"{metric.upper()} on the test set: {'; '.join(told)}", trained + tested, reference)


def _first_and_last(points: Iterable[tuple[float, float]]) -> str:
    told = [f"{number(value)} at {samples:,.0f} samples" for samples, value in points]
    return " to ".join(dict.fromkeys([told[0], told[-1]])) if told else "has not been evaluated"


def _fusion(runs: list[RunRecords]) -> list[Content]:
    """Weights and entropies of each run that has some, and in one sentence which have none."""
    parts: list[Content] = []
    for run in runs:
        found = [*_fusion_maps(run), *_entropies(run)]
        title = element("h3", f"{run.name} ({run.config.model.head})")
        parts += [title, *found] if found else []
    missing = [run.name for run in runs if run.fusion is None]
    if missing:
        of_which = f" of {', '.join(missing)}" if len(runs) > 1 else ""
        parts.append(paragraph(f"No fusion weights{of_which}: the head has no gates, or has not been evaluated yet."))
    return parts


def _fusion_maps(run: RunRecords) -> list[Content]:
    if run.fusion is None:
        return []
    maps = [
        heat_map(_fusion_caption(level, place), level.units, level.experts, level.weights)
        for place, level in enumerate(run.fusion.levels)
    ]
    at = f"Mean over the test set at {run.fusion.samples:,} samples; gate and native part together."
    return [paragraph(at), element("div", *maps, class_="figures wide")]


def _fusion_caption(level: FusionLevel, place: int) -> str:
    cells = [
        (weight, unit, expert)
        for unit, row in zip(level.units, level.weights, strict=True)
        for expert, weight in zip(level.experts, row, strict=True)
    ]
    if not cells:
        return f"Level {place}: no experts"
    weight, unit, expert = max(cells)
    means = [(fmean(abs(row[column]) for row in level.weights), name) for column, name in enumerate(level.experts)]
    least, name = min(means)
    return (
        f"Level {place}, units by experts. Largest weight: {unit} on {expert}, {decimal(weight, '.2f')}. "
        f"Least used expert: {name}, {least:.2f} on average."
    )


def _entropies(run: RunRecords) -> list[Content]:
    """How evenly each gate spreads its weight while training, so that a collapsed one shows."""
    keys = dict.fromkeys(key for window in run.windows for key in window if key.startswith("gate_entropy/"))
    levels = dict.fromkeys(key.split("/", 2)[1] for key in keys)
    charts: list[Chart | None] = []
    for level in levels:
        units = [key for key in keys if key.startswith(f"gate_entropy/{level}/")]
        lines = [Line(key.split("/", 2)[2], run.curve(key), place) for place, key in enumerate(units)]
        told = [f"{line.name} {_first_and_last(line.points)}" for line in lines]
        note = "1: all experts alike; 0: one expert takes all"
        title = f"Entropy of the gates, level {level}"
        charts.append(Chart(title, note, f"{run.name}: {'; '.join(told)}", lines, 1.0, from_zero=True))
    return _figures(charts, "") if charts else []


def _speed(runs: list[RunRecords]) -> list[Content]:
    speeds = [Line(run.name, run.curve("samples_per_second"), run.style) for run in runs]
    waits = [Line(run.name, run.curve("data_wait_fraction"), run.style) for run in runs]
    if not any(line.points for line in speeds):
        return [paragraph("Nothing has been logged yet.")]
    rows = [_speed_row(speed, wait) for speed, wait in zip(speeds, waits, strict=True)]
    told = "; ".join(f"{name}: median {middle} samples/s, waiting for data {wait}" for name, middle, _, _, wait in rows)
    charts: list[Chart | None] = [
        Chart("Throughput", "samples per second, over all ranks", told, speeds, from_zero=True),
        Chart("Waiting for data", "share of the time between log points", told, waits, from_zero=True, percent=True),
    ]
    head = ["run", "samples/s, median", "lowest", "highest", "waiting for data, mean"]
    return [table("Between log points; without evaluations and saves", head, rows), *_figures(charts, "")]


def _speed_row(speed: Line, wait: Line) -> list[str]:
    rates, shares = [value for _, value in speed.points], [value for _, value in wait.points]
    if not rates or not shares:
        return [speed.name, *[UNDEFINED] * 4]
    return [speed.name, *(f"{value:,.0f}" for value in (median(rates), min(rates), max(rates))), f"{fmean(shares):.1%}"]
