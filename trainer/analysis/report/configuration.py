"""The section of the report that says how the runs were configured: one run whole, several by what differs."""

import json
from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import Element

from models.tasks import TaskConfig
from trainer.analysis.report.evaluations import UNDEFINED
from trainer.analysis.report.html import Content, element, folded, paragraph, table
from trainer.analysis.report.run_records import RunRecords
from trainer.config.compatibility import plain

MANY_ROWS = 25
"""Longer tables are folded."""
LONG_TEXT = 24
"""Characters of a value that gets a wider column."""


def configuration(runs: list[RunRecords]) -> list[Content]:
    """The section."""
    return _overview(runs[0]) if len(runs) == 1 else _differences(runs)


def _overview(run: RunRecords) -> list[Content]:
    """The head, tasks and tables of a run, and all keys behind a fold."""
    config = run.config
    values = plain(config)
    head_keys = _leaves(values["model"])
    all_keys = _leaves(values)

    head_rows = [[key, _cell(text)] for key, text in head_keys.items()]
    head = table("Head", ["key", "value"], head_rows, words=["value"])

    columns = ["task", "kind", "label", "auxiliary", "weight"]
    words = ["kind", "label", "auxiliary"]
    tasks = table("Tasks", columns, map(_task_row, config.tasks), words=words)

    table_rows = [[entry.name, f"{entry.rows:,}", str(entry.dim)] for entry in config.tables_held]
    tables = table("Embedding tables", ["table", "rows", "width"], table_rows)
    overview = element("div", head, tasks, tables, class_="beside")

    rows = [[_breakable(key), _cell(text)] for key, text in all_keys.items()]
    resolved = table("The resolved configuration", ["key", "value"], rows, words=["value"])
    return [overview, folded(f"All {len(rows)} keys", resolved)]


def _task_row(task: TaskConfig) -> list[Content]:
    is_auxiliary = "yes" if task.auxiliary else "no"
    return [task.name, task.kind, task.label, is_auxiliary, f"{task.loss_weight:g}"]


def _differences(runs: list[RunRecords]) -> list[Content]:
    """The keys in which the runs' configs differ."""
    configs = [_leaves(plain(run.config)) for run in runs]
    keys: dict[str, None] = {}

    for config in configs:
        keys.update(dict.fromkeys(config))

    rows: list[list[Content]] = []
    for key in keys:
        values = [config.get(key, UNDEFINED) for config in configs]
        if key != "run.dir" and len(set(values)) > 1:
            rows.append([_breakable(key), *map(_cell, values)])

    if not rows:
        return [paragraph("The configurations are equal but for the folder.")]

    names = [run.name for run in runs]
    frame = table("Keys that differ", ["key", *names], rows, words=names)
    if len(rows) > MANY_ROWS:
        return [folded(f"{len(rows)} keys differ", frame)]

    return [frame]


def _cell(text: str) -> Content:
    return element("div", text, class_="long") if len(text) > LONG_TEXT else text


def _breakable(key: str) -> Element:
    """A key that may go on in the next line after a dot."""
    first, *rest = key.split(".")
    contents: list[Content] = [first]
    for part in rest:
        contents += [".", element("wbr"), part]
    return element("span", *contents)


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    """Every leaf as JSON, by its path; an entry of a list goes by its name where it has one."""
    if isinstance(value, dict):
        entries: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        entries = [(_entry_name(entry, index), entry) for index, entry in enumerate(value)]
    else:
        return {path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}

    leaves: dict[str, str] = {}
    for key, entry in entries:
        leaves |= _leaves(entry, f"{path}.{key}".strip("."))

    return leaves


def _entry_name(entry: Any, index: int) -> str:
    fields = entry if isinstance(entry, dict) else {}
    return str(fields.get("name") or fields.get("column") or index)
