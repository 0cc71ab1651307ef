"""What happened to a run, as a timeline: starts, checkpoints, what was left out."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from statistics import median
from xml.etree.ElementTree import Element

from trainer.analysis.report.html import Content, element, folded, paragraph, table
from trainer.analysis.report.run_records import Event, RunRecords
from trainer.run.starts import RunStart

LONGEST_SERIES = 3
"""More of the same kind in a row become one line."""
STATES = {"finished": "finished", "stopped": "stopped on request", "failed": "failed", None: "under way, or killed"}
NOT_FINITE = "a loss or gradient was not finite"


@dataclass(frozen=True)
class _Entry:
    time: datetime
    kind: str
    what: RunStart | Event


def state(run: RunRecords) -> str:
    """How the run stands, by its last start."""
    return STATES[run.segments[-1].end] if run.segments else "not recorded"


def timeline(run: RunRecords, *, opened: bool) -> list[Content]:
    """The run's events, oldest first, below a line that sums them up."""
    entries = [_Entry(segment.started, "start", segment) for segment in run.segments]
    entries += [_Entry(event.time, event.event, event) for event in run.events]
    entries.sort(key=lambda entry: entry.time)
    title = element("h3", run.name)
    if not entries:
        return [title, paragraph("No starts and no events are recorded.")]
    rows = [
        row for kind, series in groupby(entries, lambda entry: entry.kind) for row in _rows(run, kind, list(series))
    ]
    frame = table(f"Timeline of {run.name}", ["time (UTC)", "samples", "what"], rows, words=["what"])
    return [title, element("p", _summary(run)), folded(f"Timeline, {_count(len(rows), 'line')}", frame, opened=opened)]


def _summary(run: RunRecords) -> str:
    counts = Counter(event.event for event in run.events)
    rows = sum(event.stop - event.start for event in run.events if event.event == "skipped_rows")
    starts = len(run.segments)
    parts = [
        f"{_count(starts, 'start')}, {_count(max(starts - 1, 0), 'restart')} among them",
        _count(counts["checkpoint"], "checkpoint"),
        f"{_count(counts['damaged_checkpoint'], 'damaged checkpoint')}" if counts["damaged_checkpoint"] else "",
        f"{_count(counts['skipped_batch'], 'batch', 'es')} left out" if counts["skipped_batch"] else "",
        f"{_count(rows, 'unreadable row')} left out" if rows else "",
    ]
    whole = not counts["skipped_batch"] and not rows
    return "; ".join(part for part in parts if part) + ("; nothing left out." if whole else ".")


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{plural if number != 1 else ''}"


def _rows(run: RunRecords, kind: str, series: list[_Entry]) -> list[list[Content]]:
    events = [entry.what for entry in series if isinstance(entry.what, Event)]
    if len(events) > LONGEST_SERIES:
        span = f"{events[0].samples:,} to {events[-1].samples:,}"
        return [[_span(series[0].time, series[-1].time), span, _words(_MANY.get(kind, _many_others)(events))]]
    rows: list[list[Content]] = []
    for entry in series:
        if isinstance(entry.what, Event):
            samples, text = entry.what.samples, _ONE.get(kind, _other)(entry.what)
        else:
            samples, text = entry.what.begin, _start(run, entry.what)
        rows.append([_time(entry.time), f"{samples:,}", _words(text)])
    return rows


def _words(text: str) -> Element:
    return element("div", text, class_="long")


def _time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _span(first: datetime, last: datetime) -> str:
    same_day = first.astimezone(UTC).date() == last.astimezone(UTC).date()
    return f"{_time(first)} to {_time(last)[11:] if same_day else _time(last)}"


def _start(run: RunRecords, segment: RunStart) -> str:
    begin = "from the beginning" if segment.checkpoint is None else f"on from checkpoint {segment.begin:,}"
    last = segment.segment == len(run.segments) - 1
    end = "killed" if segment.end is None and not last else STATES[segment.end]
    saved = f"saved up to {segment.reached:,} samples" if segment.reached > segment.begin else "saved nothing"
    name = "Restart" if segment.segment else "Start"
    return f"{name} {begin}, on {_count(segment.world_size, 'rank')}: {saved}, {end}"


def _other(event: Event) -> str:
    return event.event


def _many_others(events: list[Event]) -> str:
    return f"{len(events):,} × {events[0].event}"


def _many_checkpoints(events: list[Event]) -> str:
    seconds = [event.seconds for event in events]
    return f"{len(events):,} checkpoints, saved in {median(seconds):.2f} s (median), {max(seconds):.2f} s at most"


def _one_unreadable(event: Event) -> str:
    rows = _count(event.stop - event.start, "row")
    return f"{rows} left out: row group {event.row_group} of {event.file} cannot be read ({event.reason})"


def _many_unreadable(events: list[Event]) -> str:
    rows = sum(event.stop - event.start for event in events)
    groups = {(event.file, event.row_group) for event in events}
    files = sorted({event.file for event in events})
    return (
        f"{rows:,} rows of {_count(len(groups), 'row group')} left out, which cannot be read: {', '.join(files[:5])}"
        + (f" and {len(files) - 5} files more" if len(files) > 5 else "")
    )


_ONE: dict[str, Callable[[Event], str]] = {
    "checkpoint": lambda event: f"Checkpoint, saved in {event.seconds:.2f} s",
    "skipped_batch": lambda event: f"Batch of {event.batch:,} samples left out: {NOT_FINITE}",
    "skipped_rows": _one_unreadable,
    "damaged_checkpoint": lambda event: f"Damaged checkpoint set aside: {event.problem}",
}
_MANY: dict[str, Callable[[list[Event]], str]] = {
    "checkpoint": _many_checkpoints,
    "skipped_batch": lambda events: f"{len(events):,} batches of {events[0].batch:,} samples left out: {NOT_FINITE}",
    "skipped_rows": _many_unreadable,
    "damaged_checkpoint": lambda events: f"{len(events):,} damaged checkpoints set aside: {events[0].problem} …",
}
