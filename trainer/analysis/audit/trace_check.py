"""The rows that a run really handed out, by its trace, against what the order says; one entry for every row."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.hashing import Int64
from data.manifest import Manifest
from data.trace import read_run, read_trace
from trainer.analysis.audit.intervals import Intervals, expand
from trainer.analysis.audit.lineage import Lineage
from trainer.run.directory import RunDirectory
from trainer.run.origin import Origin
from trainer.run.starts import RunStart, SampleRange


@dataclass(frozen=True, eq=False)
class HandedOut:
    """Rows in the order of their batches: samples at which the batch begins, and number of the row in the dataset."""

    samples: Int64
    row: Int64


class Trace:
    """The traces of the starts that survive."""

    def __init__(self, run: RunDirectory, origin: Origin, starts: list[RunStart], ranges: list[SampleRange]) -> None:
        self.files: dict[int, list[Path]] = {}
        """Of every start that has a whole set of them."""
        self.missing: list[str] = []
        """What is not there but should be, or should not, in words."""

        for number in sorted({part.segment for part in ranges}):
            files = [run.trace_file(number, rank) for rank in range(starts[number].world_size)]
            missing = [file.name for file in files if not file.exists()]
            foreign = [file.name for file in files if not origin.is_own(read_run(file))]
            if foreign:
                self.missing.append(f"start {number}: {', '.join(foreign)} is a trace of another run")
            elif not missing:
                self.files[number] = files
            elif starts[number].trace:
                self.missing.append(f"start {number}: its trace lacks {', '.join(missing)}")

        self._of_start = lru_cache(maxsize=1)(self._read)

    def of(self, parts: list[SampleRange]) -> HandedOut:
        """The rows handed out in pieces that all have a trace."""
        handed_out = [self._of(part) for part in parts]
        return HandedOut(
            samples=np.concatenate([entry.samples for entry in handed_out]),
            row=np.concatenate([entry.row for entry in handed_out]),
        )

    def _of(self, part: SampleRange) -> HandedOut:
        whole = self._of_start(part.segment)
        kept = slice(*np.searchsorted(whole.samples, [part.begin, part.end]))
        return HandedOut(whole.samples[kept], whole.row[kept])

    def _read(self, start: int) -> HandedOut:
        ranks = [read_trace(file) for file in self.files[start]]
        samples, row = (np.concatenate(column) for column in zip(*ranks, strict=True))
        by_batch = np.argsort(samples, kind="stable")
        return HandedOut(samples[by_batch], row[by_batch])


def compare(lineage: Lineage, epoch: int, layout: Intervals, trace: Trace) -> tuple[int | None, list[str]]:
    """Rows of an epoch that the trace holds (None: no trace), and where it differs from the order, in words."""
    parts = [part for part in lineage.parts(epoch) if part.segment in trace.files]
    if not parts:
        return None, []

    found = trace.of(parts)
    batch, row = expand(lineage.reading, epoch, lineage.rows(parts, epoch, layout))
    left_out = Intervals.join([lineage.unreadable_rows(epoch, layout), lineage.bad_rows(epoch, layout)])
    _, unread = expand(lineage.reading, epoch, left_out)
    read = ~np.isin(row, unread)
    samples = epoch * lineage.epoch_samples + batch * lineage.reading.global_batch_size
    manifest = lineage.reading.manifest
    expected = HandedOut(samples[read], row[read])

    differences = [f"epoch {epoch}: {what}" for what in _differences(expected, found, manifest)]
    return len(found.row), differences


def _differences(expected: HandedOut, found: HandedOut, manifest: Manifest) -> Iterator[str]:
    known = (found.row >= 0) & (found.row < manifest.num_rows)
    if not known.all():
        yield f"the trace holds {_rows(~known)} with numbers that the dataset does not have"

    times = np.bincount(found.row[known], minlength=manifest.num_rows)
    due = np.full(manifest.num_rows, -1)  # samples at which each row should be handed out, and was; -1: never
    seen = np.full(manifest.num_rows, -1)
    due[expected.row] = expected.samples
    seen[found.row[known]] = found.samples[known]

    is_due = due >= 0
    is_seen = times > 0
    kinds = {
        "handed out more than once": times > 1,
        "missing from the trace": is_due & ~is_seen,
        "handed out that the order leaves out": is_seen & ~is_due,
        "handed out in another batch than the order says": is_due & (times == 1) & (seen != due),
    }

    for what, where in kinds.items():
        if where.any():
            yield f"{_rows(where)} {what}; the first is {_first(where, seen, due, manifest)}"


def _rows(where: NDArray[np.bool_]) -> str:
    count = int(where.sum())
    return "1 row" if count == 1 else f"{count:,} rows"


def _first(where: NDArray[np.bool_], seen: Int64, due: Int64, manifest: Manifest) -> str:
    row = int(np.flatnonzero(where)[0])
    group = int(np.searchsorted(manifest.first_row, row, side="right")) - 1
    times = [f"{what} at {at[row]:,} samples" for what, at in (("handed out", seen), ("due", due)) if at[row] >= 0]
    row_of_group = row - manifest.first_row[group]
    return f"row {row_of_group} of {manifest.describe(group)} ({', '.join(times)})"
