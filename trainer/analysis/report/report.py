"""`adatt report`: runs side by side on one HTML page that opens from disk, for those who decide.

    records of each run (run_records) ─► sections (configuration, datasets, results, figures, timeline) ─► page (html)

Whatever a run does not have yet is said in words. A section of which no run has anything is left out.
"""

from datetime import UTC, datetime
from pathlib import Path
from xml.etree.ElementTree import Element

from models.tasks import TaskConfig
from trainer.analysis.report.configuration import configuration
from trainer.analysis.report.conflicts import conflict_figures
from trainer.analysis.report.datasets import data_tables
from trainer.analysis.report.evaluations import UNDEFINED, evaluation_tables, tables_by_value
from trainer.analysis.report.figures import calibration_figures, learning_curves, speed_figures
from trainer.analysis.report.fusion import fusion_figures
from trainer.analysis.report.html import Content, check_target, element, page, paragraph, section, table, write_page
from trainer.analysis.report.results import Comparisons, compare_with_first, comparison_tables, verdicts
from trainer.analysis.report.run_records import RunRecords, read_all_records
from trainer.analysis.report.timeline import state, timeline

SECTIONS = {
    "configuration": "Configuration",
    "data": "Data",
    "results": "Results",
    "curves": "Learning curves",
    "calibration": "Calibration",
    "fusion": "Fusion weights",
    "conflicts": "Do the tasks conflict?",
    "speed": "Speed",
    "events": "Events",
}


def write_report(paths: list[str], out: Path) -> None:
    """Writes the page about the runs in `paths`; the first is the baseline.

    Raises ConfigError if one of them is no run or is damaged, or if `out` cannot be written; then nothing is written.
    """
    check_target(out)
    write_page(out, report_page(read_all_records(paths)))


def report_page(runs: list[RunRecords]) -> Element:
    """The whole page."""
    comparisons = compare_with_first(runs) if len(runs) > 1 else None
    tasks = _evaluated_tasks(runs)
    contents = {
        "configuration": configuration(runs),
        "data": data_tables(runs, tasks),
        "results": _results(runs, comparisons),
        "curves": learning_curves(runs, tasks),
        "calibration": calibration_figures(runs, tasks),
        "fusion": fusion_figures(runs),
        "conflicts": conflict_figures(runs),
        "speed": speed_figures(runs),
        "events": _events(runs),
    }

    title = _title(runs)
    names = {key: name for key, name in SECTIONS.items() if contents[key]}
    sections = [section(key, name, *contents[key]) for key, name in names.items()]
    return page(title, [*_head(title, runs, comparisons, names), *sections])


def _title(runs: list[RunRecords]) -> str:
    baseline, *others = runs
    if not others:
        return f"Run {baseline.name}"

    count = "1 run" if len(others) == 1 else f"{len(others)} runs"
    return f"{count} against {baseline.name}"


def _head(title: str, runs: list[RunRecords], comparisons: Comparisons | None, names: dict[str, str]) -> list[Content]:
    """What stands above the sections: the verdicts, the runs, and links to the sections."""
    written = f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by adatt report. Lower NE and MSE are better."
    links = [element("a", name, href=f"#{key}") for key, name in names.items()]
    return [
        element("h1", title),
        paragraph(written),
        verdicts(comparisons) if comparisons else None,
        _run_table(runs),
        element("nav", *links, aria_label="Sections"),
    ]


def _run_table(runs: list[RunRecords]) -> Element:
    head = ["run", "head", "seed", "samples trained", "planned", "state", "started (UTC)", "folder"]
    return table("Runs", head, map(_run_row, runs), words=["head", "state", "started (UTC)", "folder"])


def _run_row(run: RunRecords) -> list[Content]:
    config = run.config
    planned = config.train.samples
    started = UNDEFINED
    if run.starts:
        started = f"{run.starts[0].started.astimezone(UTC):%Y-%m-%d %H:%M}"

    return [
        run.name,
        config.model.head,
        str(config.run.seed),
        f"{run.samples:,}",
        planned if isinstance(planned, str) else f"{planned:,}",
        state(run),
        started,
        str(run.path),
    ]


def _evaluated_tasks(runs: list[RunRecords]) -> list[TaskConfig]:
    """Tasks of all runs that are no auxiliary ones, each once."""
    tasks: dict[str, TaskConfig] = {}
    for run in runs:
        for task in run.config.tasks:
            if not task.auxiliary:
                tasks[task.name] = task
    return list(tasks.values())


def _results(runs: list[RunRecords], comparisons: Comparisons | None) -> list[Content]:
    contents = comparison_tables(comparisons) if comparisons else []
    has_comparison = comparisons is not None and bool(comparisons.differences)

    evaluations = evaluation_tables(runs, opened=not has_comparison)
    contents += evaluations or [paragraph("No run has been evaluated yet.")]
    return [*contents, *tables_by_value(runs)]


def _events(runs: list[RunRecords]) -> list[Content]:
    contents: list[Content] = []
    for run in runs:
        contents += timeline(run, opened=len(runs) == 1)
    return contents
