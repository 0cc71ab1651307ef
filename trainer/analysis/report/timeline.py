"""What happened to a run, as a timeline: starts, checkpoints, what was left out."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from statistics import median
from typing import Any
from xml.etree.ElementTree import Element

from trainer.analysis.report.html import Content, element, folded, paragraph, table
from trainer.analysis.report.run_records import RunRecords
from trainer.run.records import BadValuesEvent, ChangedDataEvent, CheckpointEvent, Event, SkippedRowsEvent
from trainer.run.starts import RunStart

LONGEST_SERIES = 3
"""More of the same kind in a row become one line."""
NAMED_FILES = 5
"""The other files of a series are counted."""
STATES = {"finished": "finished", "stopped": "stopped on request", "failed": "failed", None: "under way, or killed"}
NOT_FINITE = "a loss or gradient was not finite"


@dataclass(frozen=True)
class _Entry:
    """A start or an event, with what they have in common."""

    time: datetime
    kind: str
    what: RunStart | Event


def state(run: RunRecords) -> str:
    """How the run stands, by its last start."""
    return STATES[run.starts[-1].end] if run.starts else "not recorded"


def timeline(run: RunRecords, *, opened: bool) -> list[Content]:
    """The run's events, oldest first, below a line that sums them up."""
    entries = [_Entry(start.started, "start", start) for start in run.starts]
    entries += [_Entry(event.time, event.event, event) for event in run.events]
    entries.sort(key=lambda entry: entry.time)

    title = element("h3", run.name)
    if not entries:
        return [title, paragraph("No starts and no events are recorded.")]

    rows: list[list[Content]] = []
    for kind, series in groupby(entries, lambda entry: entry.kind):
        rows += _rows(run, kind, list(series))

    frame = table(f"Timeline of {run.name}", ["time (UTC)", "samples", "what"], rows, words=["what"])
    summary = f"Timeline, {_count(len(rows), 'line')}"
    return [title, element("p", _summary(run)), folded(summary, frame, opened=opened)]


def _summary(run: RunRecords) -> str:
    counts = Counter(event.event for event in run.events)
    damaged = counts["damaged_checkpoint"]
    batches = counts["skipped_batch"]
    num_rows = sum(_num_rows(event) for event in run.events if isinstance(event, SkippedRowsEvent))
    num_bad = sum(event.rows for event in run.events if isinstance(event, BadValuesEvent))
    num_starts = len(run.starts)
    restarts = _count(max(num_starts - 1, 0), "restart")

    parts = [f"{_count(num_starts, 'start')}, {restarts} among them", _count(counts["checkpoint"], "checkpoint")]
    if damaged:
        parts.append(_count(damaged, "damaged checkpoint"))

    if batches:
        parts.append(f"{_count(batches, 'batch', 'es')} left out")

    if num_rows:
        parts.append(f"{_count(num_rows, 'unreadable row')} left out")

    if num_bad:
        parts.append(f"{_count(num_bad, 'row')} with bad values left out")

    if not batches and not num_rows and not num_bad:
        parts.append("nothing left out")

    return "; ".join(parts) + "."


def _num_rows(event: SkippedRowsEvent) -> int:
    return event.stop - event.start


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{plural if number != 1 else ''}"


def _rows(run: RunRecords, kind: str, series: list[_Entry]) -> list[list[Content]]:
    events = [entry.what for entry in series if isinstance(entry.what, Event)]
    if len(events) > LONGEST_SERIES:
        describe = _MANY.get(kind, _many_others)
        samples = f"{events[0].samples:,} to {events[-1].samples:,}"
        return [[_span(series[0].time, series[-1].time), samples, _words(describe(events))]]

    rows: list[list[Content]] = []
    for entry in series:
        if isinstance(entry.what, Event):
            at = entry.what.samples
            describe_one = _ONE.get(kind, _other)
            text = describe_one(entry.what)
        else:
            at = entry.what.begin
            text = _start(run, entry.what)

        rows.append([_time(entry.time), f"{at:,}", _words(text)])

    return rows


def _words(text: str) -> Element:
    return element("div", text, class_="long")


def _time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _span(first: datetime, last: datetime) -> str:
    day = _time(first)[:10]
    until = _time(last)
    return f"{_time(first)} to {until.removeprefix(day).lstrip()}"


def _start(run: RunRecords, start: RunStart) -> str:
    name = "Restart" if start.segment else "Start"
    begin = "from the beginning" if start.checkpoint is None else f"on from checkpoint {start.begin:,}"
    saved = f"saved up to {start.reached:,} samples" if start.reached > start.begin else "saved nothing"

    # Only the last start can be under way still: an earlier one without an end was killed.
    is_last = start.segment == len(run.starts) - 1
    end = STATES[start.end] if start.end is not None or is_last else "killed"
    return f"{name} {begin}, on {_count(start.world_size, 'rank')}: {saved}, {end}"


def _other(event: Event) -> str:
    return event.event


def _many_others(events: list[Event]) -> str:
    return f"{len(events):,} × {events[0].event}"


def _many_checkpoints(events: list[CheckpointEvent]) -> str:
    seconds = [event.seconds for event in events]
    return f"{len(events):,} checkpoints, saved in {median(seconds):.2f} s (median), {max(seconds):.2f} s at most"


def _one_unreadable(event: SkippedRowsEvent) -> str:
    rows = _count(_num_rows(event), "row")
    return f"{rows} left out: row group {event.row_group} of {event.file} cannot be read ({event.reason})"


def _many_unreadable(events: list[SkippedRowsEvent]) -> str:
    num_rows = sum(map(_num_rows, events))
    row_groups = {(event.file, event.row_group) for event in events}
    files = sorted({event.file for event in events})

    rows = f"{num_rows:,} rows of {_count(len(row_groups), 'row group')}"
    return f"{rows} left out, which cannot be read: {_first(files)}"


def _first(files: list[str]) -> str:
    names = ", ".join(files[:NAMED_FILES])
    more = len(files) - NAMED_FILES
    return f"{names} and {more} files more" if more > 0 else names


def _changed_data(event: ChangedDataEvent) -> str:
    count = _count(len(event.files), "training file")
    return f"{count} accepted with new contents and the same rows: {_first(event.files)}"


def _one_bad(event: BadValuesEvent) -> str:
    of_group = f"row group {event.row_group} of {event.file}"
    return f"{_count(event.rows, 'row')} of {of_group} left out for a bad value: {event.column} is {event.reason}"


def _many_bad(events: list[BadValuesEvent]) -> str:
    columns = sorted({event.column for event in events})
    return f"{sum(event.rows for event in events):,} rows left out for bad values of {', '.join(columns)}"


# By the kinds of `trainer.run.records.EVENTS`, whose model each function takes.
_ONE: dict[str, Callable[[Any], str]] = {
    "warm_start": lambda event: f"Begins with weights of {event.source} at {int(event.checkpoint):,} samples",
    "changed_data": _changed_data,
    "config_change": lambda event: f"{event.key} is {event.now} from here on; it was {event.before}",
    "checkpoint": lambda event: f"Checkpoint, saved in {event.seconds:.2f} s",
    "skipped_batch": lambda event: f"Batch of {event.batch:,} samples left out: {NOT_FINITE}",
    "skipped_rows": _one_unreadable,
    "bad_values": _one_bad,
    "damaged_checkpoint": lambda event: f"Damaged checkpoint set aside: {event.problem}",
}
_MANY: dict[str, Callable[[list[Any]], str]] = {
    "checkpoint": _many_checkpoints,
    "skipped_batch": lambda events: f"{len(events):,} batches of {events[0].batch:,} samples left out: {NOT_FINITE}",
    "skipped_rows": _many_unreadable,
    "bad_values": _many_bad,
    "damaged_checkpoint": lambda events: f"{len(events):,} damaged checkpoints set aside: {events[0].problem} …",
}
