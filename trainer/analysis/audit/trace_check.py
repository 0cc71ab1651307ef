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

    def __init__(self, run: RunDirectory, origin: Origin, segments: list[RunStart], pieces: list[SampleRange]) -> None:
        self.files: dict[int, list[Path]] = {}
        """Of every start that has a whole set of them."""
        self.missing: list[str] = []
        """What is not there but should be, or should not, in words."""

        for number in sorted({piece.segment for piece in pieces}):
            files = [run.trace_file(number, rank) for rank in range(segments[number].world_size)]
            missing = [file.name for file in files if not file.exists()]
            foreign = [file.name for file in files if not origin.is_own(read_run(file))]
            if foreign:
                self.missing.append(f"start {number}: {', '.join(foreign)} is a trace of another run")
            elif not missing:
                self.files[number] = files
            elif segments[number].trace:
                self.missing.append(f"start {number}: its trace lacks {', '.join(missing)}")

        self._of_segment = lru_cache(maxsize=1)(self._read)

    def of(self, parts: list[SampleRange]) -> HandedOut:
        """The rows handed out in pieces that all have a trace."""
        found = [self._of(part) for part in parts]
        nothing = np.zeros(0, np.int64)
        return HandedOut(
            np.concatenate([nothing, *(part.samples for part in found)]),
            np.concatenate([nothing, *(part.row for part in found)]),
        )

    def _of(self, part: SampleRange) -> HandedOut:
        whole = self._of_segment(part.segment)
        kept = slice(*np.searchsorted(whole.samples, [part.begin, part.end]))
        return HandedOut(whole.samples[kept], whole.row[kept])

    def _read(self, segment: int) -> HandedOut:
        ranks = [read_trace(file) for file in self.files[segment]]
        samples, row = (np.concatenate(column) for column in zip(*ranks, strict=True))
        by_batch = np.argsort(samples, kind="stable")
        return HandedOut(samples[by_batch], row[by_batch])


def compare(line: Lineage, epoch: int, layout: Intervals, trace: Trace) -> tuple[int | None, list[str]]:
    """Rows of an epoch that the trace holds (None: no trace), and where it differs from the order, in words."""
    parts = [part for part in line.parts(epoch) if part.segment in trace.files]
    if not parts:
        return None, []

    found = trace.of(parts)
    batch, row = expand(line.reading, epoch, line.rows(parts, epoch, layout))
    _, unreadable = expand(line.reading, epoch, line.unreadable_rows(epoch, layout))
    read = ~np.isin(row, unreadable)
    samples = epoch * line.epoch_samples + batch * line.reading.global_batch_size
    manifest = line.reading.manifest
    expected = HandedOut(samples[read], row[read])

    return len(found.row), [f"epoch {epoch}: {what}" for what in _differences(expected, found, manifest)]


def _differences(expected: HandedOut, found: HandedOut, manifest: Manifest) -> Iterator[str]:
    known = (found.row >= 0) & (found.row < manifest.num_rows)
    if not known.all():
        yield f"the trace holds {_rows(~known)} with numbers that the dataset does not have"

    times = np.bincount(found.row[known], minlength=manifest.num_rows)
    due, seen = np.full(manifest.num_rows, -1), np.full(manifest.num_rows, -1)
    due[expected.row] = expected.samples
    seen[found.row[known]] = found.samples[known]
    kinds = {
        "handed out more than once": times > 1,
        "missing from the trace": (times == 0) & (due >= 0),
        "handed out that the order leaves out": (times > 0) & (due < 0),
        "handed out in another batch than the order says": (times == 1) & (due >= 0) & (seen != due),
    }

    for what, where in kinds.items():
        if where.any():
            yield f"{_rows(where)} {what}; the first is {_first(where, seen, due, manifest)}"


def _rows(where: NDArray[np.bool_]) -> str:
    number = int(where.sum())
    return f"{number:,} row{'s' * (number != 1)}"


def _first(where: NDArray[np.bool_], seen: Int64, due: Int64, manifest: Manifest) -> str:
    row = int(np.flatnonzero(where)[0])
    group = int(np.searchsorted(manifest.first_row, row, side="right")) - 1
    places = {"handed out": int(seen[row]), "due": int(due[row])}
    when = ", ".join(f"{what} at {samples:,} samples" for what, samples in places.items() if samples >= 0)
    return f"row {row - manifest.first_row[group]} of {manifest.describe(group)} ({when})"
