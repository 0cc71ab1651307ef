"""A study's results as files: study.md, study.html and study.json (a record a line)."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from data.storage.files import replace_text
from trainer.analysis.compare.compare import Difference
from trainer.analysis.compare.files import escaped
from trainer.analysis.report.charts import Chart, line_chart
from trainer.analysis.report.html import Content, element, page, paragraph, section, table, write_page
from trainer.analysis.report.lines import Line
from trainer.studies.results import Results, holm_at_end
from trainer.studies.study import Expanded
from trainer.studies.tables import StudyTable, difference_cell


def write_study(study: Expanded, results: Results, tables: Sequence[StudyTable], command: str, out: Path) -> None:
    """Writes the three files into OUT."""
    head = f"{command} — {datetime.now(UTC):%Y-%m-%d}"
    replace_text(out / "study.md", markdown(study.study.title, study.study.about, head, tables))
    replace_text(out / "study.json", "".join(json.dumps(record) + "\n" for record in records(results)))
    write_page(out / "study.html", _page(study, results, tables, head))


def markdown(title: str, about: str, head: str, tables: Sequence[StudyTable]) -> str:
    """The page as text."""
    parts = [f"# {title}", f"`{head}`", *([about.strip()] if about else [])]
    for one in tables:
        parts += [f"## {escaped(one.title)}", markdown_table(one), *([escaped(one.note)] if one.note else [])]
    return "\n\n".join(parts) + "\n"


def markdown_table(one: StudyTable) -> str:
    """Words to the left, numbers to the right."""
    alignment = ["---", *["---:"] * (len(one.header) - 1)]
    lines = [one.header, alignment, *one.rows]
    return "\n".join("| " + " | ".join(map(escaped, line)) + " |" for line in lines)


def console_table(one: StudyTable) -> Table:
    """For a terminal."""
    shown = Table(title=one.title, caption=one.note or None)
    for number, name in enumerate(one.header):
        shown.add_column(name, justify="right" if number else "left")
    for row in one.rows:
        shown.add_row(*(cell.replace(" [", "\n[") for cell in row))
    return shown


def records(results: Results) -> list[dict[str, Any]]:
    """Every difference with its corrected p value, every AUC, and the values of each seed at the end."""
    found: list[dict[str, Any]] = []
    for differences in results.against.values():
        corrected = holm_at_end(differences)
        last = max((entry.samples for entry in differences), default=0)
        for entry in differences:
            p_holm = corrected.get((entry.run, entry.task)) if entry.samples == last else None
            found.append({"kind": "difference", **asdict(entry), "p_holm": p_holm})

    found += [{"kind": "auc", **asdict(entry)} for entry in results.aucs]
    for variant, runs in results.ends.items():
        for number, run in enumerate(runs):
            for task, record in run.items():
                values = {"ne": record.ne, "auc": record.auc, "mse": record.mse}
                found.append({"kind": "end", "variant": variant, "number": number, "task": task, **values})

    return found


def _page(study: Expanded, results: Results, tables: Sequence[StudyTable], head: str) -> Any:
    contents: list[Content] = [element("h1", study.study.title), paragraph(head)]
    if study.study.about:
        contents.append(element("p", study.study.about.strip()))
    tasks = results.tasks if results.against[study.study.baseline] else ()
    charts = [line_chart(_chart(results, study.study.baseline, task)) for task in tasks]
    found = [
        part
        for one in tables
        for part in (table(one.title, one.header, one.rows, words=["head", "levels", "experts"]), paragraph(one.note))
    ]
    if charts:
        contents.append(section("curves", "Curves", element("div", *charts, class_="figures")))
    contents.append(section("tables", "Tables", *found))
    return page(study.study.title, contents)


def _chart(results: Results, baseline: str, task: str) -> Chart:
    """Every variant's difference to the baseline at each milestone."""
    entries = [entry for entry in results.against[baseline] if entry.task == task and entry.low_percent is not None]
    names = list(dict.fromkeys(entry.run for entry in entries))
    lines = [_line(name, style, [entry for entry in entries if entry.run == name]) for style, name in enumerate(names)]
    text = "; ".join(f"{entry.run} at {entry.column}: {difference_cell(entry)} %" for entry in entries)
    note = f"Against {baseline}, with 95 % intervals; below 0 is better"
    return Chart(task, note, text, lines, reference=0.0, percent=True)


def _line(name: str, style: int, entries: list[Difference]) -> Line:
    points = [(float(entry.samples), (entry.relative_percent or 0.0) / 100) for entry in entries]
    intervals = [((entry.low_percent or 0.0) / 100, (entry.high_percent or 0.0) / 100) for entry in entries]
    return Line(name, points, style, intervals=intervals)
