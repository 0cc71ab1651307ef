"""The surviving line of a run: what the newest weights have seen, and what was left out on the way."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from data.hashing import Int64
from data.manifest import Manifest
from data.order import group_rows
from data.reading import Reading
from trainer.analysis.audit.intervals import Intervals
from trainer.errors import ConfigError
from trainer.run.records import BadValuesEvent, SkippedBatchEvent, SkippedRowsEvent, read_events
from trainer.run.starts import RunStart, SampleRange, surviving


@dataclass(frozen=True)
class Unreadable:
    """Rows start … stop of a group's order in an epoch that a start could not read."""

    epoch: int
    group: int
    start: int
    stop: int
    range: SampleRange
    """What survives of that start."""


@dataclass(frozen=True)
class BadRows:
    """Rows of a group that weighed 0 in an epoch of a start, each in a range of stored rows: first, after the last."""

    epoch: int
    group: int
    ranges: list[tuple[int, int]]
    range: SampleRange
    """What survives of that start."""

    def places(self, reading: Reading) -> Int64:
        """Where the rows stand in the group's own order."""
        rows = np.concatenate([np.arange(begin, end) for begin, end in self.ranges])
        size = int(reading.manifest.rows[self.group])
        order = group_rows(
            self.group,
            size,
            name=reading.order,
            seed=reading.seed,
            epoch=self.epoch,
            block_rows=reading.block_rows,
        )
        if order is None:
            return rows
        place_of_row = np.empty(size, np.int64)
        place_of_row[order] = np.arange(size)
        return place_of_row[rows]


@dataclass(frozen=True)
class Lineage:
    """What the newest weights have seen; all in whole batches."""

    reading: Reading
    ranges: list[SampleRange]
    reached: int
    end: int
    """Samples at which training ends."""
    skipped: list[int]
    """Samples at which the batches that were left out begin, ascending."""
    unreadable: list[Unreadable]
    bad: list[BadRows]

    @property
    def epoch_samples(self) -> int:
        """Samples of an epoch."""
        return self.reading.batches_per_epoch * self.reading.global_batch_size

    def stretches(self, *, each: bool) -> list[range]:
        """All epochs, in ranges of such as are like the first of them; `each`: those that were begun one by one."""
        size = self.epoch_samples
        batch = self.reading.global_batch_size
        points = {0, self.reached, self.end}

        for begin in self.skipped:
            points |= {begin, begin + batch}

        for part in self.ranges:
            points |= {part.begin, part.end}

        # Something happens in the epoch of a point, so that one is apart from those before it and after it.
        edges: set[int] = set()
        for point in points:
            edges |= {point // size, -(-point // size)}

        for entry in self.unreadable:
            edges |= {entry.epoch, entry.epoch + 1}

        for rows in self.bad:
            edges |= {rows.epoch, rows.epoch + 1}

        if each:
            edges |= set(range(-(-self.reached // size)))

        last = -(-max(self.reached, self.end) // size)
        kept = sorted(edge for edge in edges if edge <= last)
        return [range(first, after) for first, after in pairwise(kept)]

    def parts(self, epoch: int) -> list[SampleRange]:
        """The pieces, as far as they lie in an epoch."""
        parts = [self._part(whole, epoch) for whole in self.ranges]
        return [part for part in parts if part.num_samples > 0]

    def trained_parts(self, epoch: int) -> list[SampleRange]:
        """The same without the batches that were left out."""
        trained = []
        for part in self.parts(epoch):
            skipped = [begin for begin in self.skipped if part.begin <= begin < part.end]
            begins = [part.begin, *(begin + self.reading.global_batch_size for begin in skipped)]
            ends = [*skipped, part.end]
            trained += [SampleRange(part.segment, begin, end) for begin, end in zip(begins, ends, strict=True)]

        return trained

    def rows(self, parts: Iterable[SampleRange], epoch: int, layout: Intervals) -> Intervals:
        """The rows of pieces in an epoch, all of which `layout` holds."""
        epoch_begin = epoch * self.epoch_samples

        def lane_row(samples: int) -> int:
            batches = (samples - epoch_begin) // self.reading.global_batch_size
            return batches * self.reading.rows_per_lane

        return Intervals.join(layout.in_lane(lane_row(part.begin), lane_row(part.end)) for part in parts)

    def unreadable_rows(self, epoch: int, layout: Intervals) -> Intervals:
        """The rows of an epoch that could not be read, as far as that survives."""
        found: list[Intervals] = []
        for entry in self.unreadable:
            part = self._part(entry.range, epoch)
            if entry.epoch == epoch and part.num_samples > 0:
                rows = self.rows([part], epoch, layout)
                found.append(rows.in_group(entry.group, entry.start, entry.stop))

        return Intervals.join(found)

    def bad_rows(self, epoch: int, layout: Intervals) -> Intervals:
        """The rows of an epoch that weighed 0 for a bad value, each an interval, as far as that survives."""
        found: list[Intervals] = []
        for whole in self.ranges:
            part = self._part(whole, epoch)
            entries = [entry for entry in self.bad if entry.epoch == epoch and entry.range == whole]
            if not entries or part.num_samples <= 0:
                continue
            places = [entry.places(self.reading) for entry in entries]
            group = np.repeat([entry.group for entry in entries], list(map(len, places)))
            rows = self.rows([part], epoch, layout)
            found.append(rows.at(group, np.concatenate(places), self.reading.manifest.rows))

        return Intervals.join(found)

    def _part(self, whole: SampleRange, epoch: int) -> SampleRange:
        """What of a range lies in an epoch; it may be empty."""
        begin = epoch * self.epoch_samples
        end = begin + self.epoch_samples
        return SampleRange(whole.segment, max(whole.begin, begin), min(whole.end, end))


def read_lineage(starts: list[RunStart], events: Path, reading: Reading, end: int) -> Lineage:
    """The surviving line of the starts; raises ConfigError if the events are damaged."""
    batch = reading.global_batch_size

    def whole_batches(samples: int) -> int:
        return samples // batch * batch

    range_of_start: dict[int, SampleRange] = {}
    for part in surviving(starts):
        begin = whole_batches(part.begin)
        stop = whole_batches(part.end)
        if begin < stop:
            range_of_start[part.segment] = SampleRange(part.segment, begin, stop)

    skipped: set[int] = set()
    unreadable = []
    bad = []

    for number, event in enumerate(read_events(events), start=1):
        survives = range_of_start.get(event.segment)
        if survives is None:
            continue
        where = f"{events}: line {number}"
        if isinstance(event, BadValuesEvent):
            begins, ends = zip(*event.ranges, strict=True)
            group = _find(event, min(begins), max(ends), reading.manifest, where)
            bad.append(BadRows(event.epoch, group, event.ranges, survives))
        elif isinstance(event, SkippedRowsEvent):
            group = _find(event, event.start, event.stop, reading.manifest, where)
            unreadable.append(Unreadable(event.epoch, group, event.start, event.stop, survives))
        elif isinstance(event, SkippedBatchEvent) and survives.begin <= event.samples < survives.end:
            skipped.add(whole_batches(event.samples))

    reached = whole_batches(starts[-1].reached)
    return Lineage(reading, list(range_of_start.values()), reached, end, sorted(skipped), unreadable, bad)


def _find(event: SkippedRowsEvent | BadValuesEvent, start: int, stop: int, manifest: Manifest, where: str) -> int:
    """Number of the event's row group in the dataset; raises ConfigError if it is not there, with so many rows."""
    file = manifest.files.index(event.file) if event.file in manifest.files else -1
    found = np.flatnonzero((manifest.file == file) & (manifest.group == event.row_group))
    if not len(found) or stop > manifest.rows[found[0]]:
        rows = f"rows {start} to {stop} of row group {event.row_group} of {event.file!r}"
        raise ConfigError(f"{where} names {rows}, which the dataset does not have; restore the file from a copy")

    return int(found[0])
