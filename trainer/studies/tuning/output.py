"""A search for people: how far it is, and at its end a table, the command of the best trial, and files."""

import json
import shlex
from pathlib import Path

import tomli_w
from rich.table import Table

from data.counts import format_count
from data.storage.files import replace_text
from trainer.config.load import changed_values
from trainer.console import visible
from trainer.studies.pages import markdown_table
from trainer.studies.progress import SamplesDisplay
from trainer.studies.tables import StudyTable
from trainer.studies.tuning.checks import Search
from trainer.studies.tuning.search import Status, Tuning
from trainer.studies.tuning.space import changes_of
from trainer.studies.tuning.trials import Trial

PLAIN_LINE_SECONDS = 30.0
"""Shortest time between two plain lines."""
LONGEST_REASON = 100
"""Characters of a failure in the notes."""


class TuningDisplay(SamplesDisplay):
    """Called with the status of a search."""

    def __init__(self) -> None:
        super().__init__("tuning")

    def __call__(self, status: Status) -> None:
        """It is so far."""
        best = "" if status.best is None else f" · best objective {status.best:.5f}"
        self.show(f"{status.ended:,} of {status.trials:,} trials{best}", status.samples, status.all_samples)


def console_table(table: StudyTable) -> Table:
    """For a terminal: where that is narrow the names of keys are broken, numbers never."""
    shown = Table(title=table.title)
    for column, name in enumerate(table.header):
        width = max(len(row[column]) for row in table.rows)
        shown.add_column(name, justify="right" if column else "left", overflow="fold", min_width=width)
    for row in table.rows:
        shown.add_row(*row)
    return shown


def tuning_table(tuning: Tuning) -> StudyTable:
    """A trial a row, best first."""
    keys = list(tuning.trials[0].values)
    metrics = {task: name for trial in tuning.trials for task, of_task in trial.metrics.items() for name in of_task}
    header = ["trial", *keys, *(f"{task} {name.upper()}" for task, name in metrics.items()), "objective"]
    rows = [_row(trial, keys, metrics) for trial in tuning.trials]
    return StudyTable("trials, best first; objective: mean over tasks of the logarithm of NE (NMSE)", header, rows)


def _row(trial: Trial, keys: list[str], metrics: dict[str, str]) -> list[str]:
    values = [_short(trial.values[key]) for key in keys]
    figures = [trial.metrics.get(task, {}).get(name) for task, name in metrics.items()]
    cells = ["–" if figure is None else f"{figure:.5g}" for figure in figures]
    cells.append("–" if trial.objective is None else f"{trial.objective:.4g}")
    return [_name(trial), *values, *cells]


def _name(trial: Trial) -> str:
    if trial.state == "pruned":
        return f"{trial.number} (pruned at {format_count(trial.samples)})"
    return f"{trial.number} (failed)" if trial.state == "failed" else str(trial.number)


def _short(text: str) -> str:
    """A number in four digits, as far as that is shorter."""
    try:
        number = float(text)
    except ValueError:
        return text
    return min(text, f"{number:.4g}", key=len)


def failure_notes(tuning: Tuning) -> list[str]:
    """A line for each trial that has failed; tune.json has the reasons in full."""
    failed = sorted((trial for trial in tuning.trials if trial.state == "failed"), key=lambda trial: trial.number)
    return [f"trial {trial.number} failed: {_cut(trial.reason)}" for trial in failed]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def train_command(search: Search, best: Trial) -> str:
    """The command that trains with the best values."""
    changes = [*search.changes, *changes_of(best.values)]
    options = [part for change in changes for part in ("--set", change)]
    return " ".join(visible(shlex.join(["adatt", "train", search.config, *options])).split("\n"))


def write_tuning(tuning: Tuning, search: Search, out: Path) -> None:
    """Writes OUT/tune.json (a trial a line, best first) and tune.md; with a best trial, best.toml."""
    replace_text(out / "tune.json", "".join(json_lines(tuning)))
    command = ""
    if tuning.trials[0].state == "complete":
        command = train_command(search, tuning.best)
        values = changed_values(search.config, [*search.changes, *changes_of(tuning.best.values)])
        heading = f"# The config of `{command}`, the best of {len(tuning.trials)} trials."
        replace_text(out / "best.toml", f"{heading}\n{tomli_w.dumps(values)}")
    replace_text(out / "tune.md", _markdown(tuning, command))


def json_lines(tuning: Tuning) -> list[str]:
    """One object a trial, best first."""
    return [json.dumps(trial.record()) + "\n" for trial in tuning.trials]


def _markdown(tuning: Tuning, command: str) -> str:
    table = tuning_table(tuning)
    notes = [f"- {line}" for line in failure_notes(tuning)]
    parts = [f"# {table.title}", markdown_table(table), "\n".join(notes), f"    {command}" if command else ""]
    return "\n\n".join(part for part in parts if part) + "\n"
