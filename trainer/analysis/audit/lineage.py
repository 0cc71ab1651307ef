"""The surviving line of a run: what the newest weights have seen, and what was left out on the way."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from data.manifest import Manifest
from data.reading import Reading
from data.storage.parsing import parse_json
from trainer.analysis.audit.intervals import Intervals
from trainer.errors import ConfigError
from trainer.run.jsonl import whole_lines
from trainer.run.starts import RunStart, SampleRange, Samples, explain, surviving


class SkippedBatch(BaseModel):
    """A batch without an update, since a loss or gradient was not finite."""

    event: Literal["skipped_batch"]
    segment: int
    samples: Samples
    """At which the batch begins."""


class SkippedRows(BaseModel):
    """Rows start … stop of a row group's order in an epoch that could not be read."""

    event: Literal["skipped_rows"]
    segment: int
    epoch: int = Field(ge=0)
    file: str
    row_group: int
    start: int = Field(ge=0)
    stop: int


_EVENTS: dict[Any, type[SkippedBatch | SkippedRows]] = {"skipped_batch": SkippedBatch, "skipped_rows": SkippedRows}


@dataclass(frozen=True)
class Unreadable:
    """Rows start … stop of a group's order in an epoch that a start could not read."""

    epoch: int
    group: int
    start: int
    stop: int
    piece: SampleRange
    """What survives of that start."""


@dataclass(frozen=True)
class Lineage:
    """What the newest weights have seen; all in whole batches."""

    reading: Reading
    pieces: list[SampleRange]
    reached: int
    end: int
    """Samples at which training ends."""
    skipped: list[int]
    """Samples at which the batches that were left out begin, ascending."""
    unreadable: list[Unreadable]

    @property
    def epoch_samples(self) -> int:
        """Samples of an epoch."""
        return self.reading.batches_per_epoch * self.reading.global_batch_size

    def stretches(self, *, each: bool) -> list[range]:
        """All epochs, in ranges of such as are like the first of them; `each`: those that were begun one by one."""
        size, batch = self.epoch_samples, self.reading.global_batch_size
        points = {0, self.reached, self.end, *self.skipped, *(begin + batch for begin in self.skipped)}
        points |= {edge for piece in self.pieces for edge in (piece.begin, piece.end)}
        edges = {edge for point in points for edge in (point // size, -(-point // size))}
        edges |= {edge for entry in self.unreadable for edge in (entry.epoch, entry.epoch + 1)}

        if each:
            edges |= set(range(-(-self.reached // size)))

        last = -(-max(self.reached, self.end) // size)
        return [range(first, after) for first, after in pairwise(sorted(edge for edge in edges if edge <= last))]

    def parts(self, epoch: int) -> list[SampleRange]:
        """The pieces, as far as they lie in an epoch."""
        return [part for piece in self.pieces if (part := self._part(piece, epoch)).begin < part.end]

    def trained_parts(self, epoch: int) -> list[SampleRange]:
        """The same without the batches that were left out."""
        trained = []
        for part in self.parts(epoch):
            skipped = [begin for begin in self.skipped if part.begin <= begin < part.end]
            begins = [part.begin, *(begin + self.reading.global_batch_size for begin in skipped)]
            trained += [SampleRange(part.segment, *ends) for ends in zip(begins, [*skipped, part.end], strict=True)]
        return trained

    def rows(self, parts: Iterable[SampleRange], epoch: int, layout: Intervals) -> Intervals:
        """The rows of pieces in an epoch, all of which `layout` holds."""
        begin, batch, share = epoch * self.epoch_samples, self.reading.global_batch_size, self.reading.rows_per_lane
        return Intervals.join(
            layout.in_lane((part.begin - begin) // batch * share, (part.end - begin) // batch * share) for part in parts
        )

    def unreadable_rows(self, epoch: int, layout: Intervals) -> Intervals:
        """The rows of an epoch that could not be read, as far as that survives."""
        return Intervals.join(
            self.rows([part], epoch, layout).in_group(entry.group, entry.start, entry.stop)
            for entry in self.unreadable
            if entry.epoch == epoch and (part := self._part(entry.piece, epoch)).begin < part.end
        )

    def _part(self, piece: SampleRange, epoch: int) -> SampleRange:
        begin, end = epoch * self.epoch_samples, (epoch + 1) * self.epoch_samples
        return SampleRange(piece.segment, max(piece.begin, begin), min(piece.end, end))


def read_lineage(segments: list[RunStart], events: Path, reading: Reading, end: int) -> Lineage:
    """The surviving line of the starts; ConfigError where the events are damaged."""
    batch = reading.global_batch_size
    whole = [
        SampleRange(piece.segment, piece.begin // batch * batch, piece.end // batch * batch)
        for piece in surviving(segments)
    ]
    pieces = {piece.segment: piece for piece in whole if piece.begin < piece.end}
    skipped: set[int] = set()
    unreadable = []

    for number, event in read_events(events):
        piece = pieces.get(event.segment)
        if piece is None:
            continue
        if isinstance(event, SkippedRows):
            group = _find(event, reading.manifest, f"{events}: line {number}")
            unreadable.append(Unreadable(event.epoch, group, event.start, event.stop, piece))
        elif piece.begin <= event.samples < piece.end:
            skipped.add(event.samples // batch * batch)

    reached = segments[-1].reached // batch * batch
    return Lineage(reading, list(pieces.values()), reached, end, sorted(skipped), unreadable)


def read_events(path: Path) -> list[tuple[int, SkippedBatch | SkippedRows]]:
    """What was left out, with the numbers of the lines; a last line that a kill cut short is passed over."""
    events = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            kind = parse_json(line)["event"]
            if kind in _EVENTS:
                events.append((number, _EVENTS[kind].model_validate_json(line, strict=True)))
        except (ValueError, TypeError, KeyError) as error:
            what = explain(error) if isinstance(error, ValidationError) else repr(error)
            raise ConfigError(
                f"{path}: line {number} is not an event ({what}); restore the file from a copy"
            ) from error

    return events


def _find(event: SkippedRows, manifest: Manifest, where: str) -> int:
    """Number of the event's row group in the dataset; ConfigError where there is none."""
    file = manifest.files.index(event.file) if event.file in manifest.files else -1
    found = np.flatnonzero((manifest.file == file) & (manifest.group == event.row_group))
    if not len(found) or event.stop > manifest.rows[found[0]]:
        raise ConfigError(
            f"{where} names rows {event.start} to {event.stop} of row group {event.row_group} of {event.file!r}, which "
            "the dataset does not have; restore the file from a copy"
        )

    return int(found[0])
