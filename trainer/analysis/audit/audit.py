"""What the records of a run prove: which rows were trained, how often, and why the others were not.

    segments.jsonl  →  pieces of the samples clock that the newest weights have seen
    manifest, seed  →  the order of every epoch  →  the rows of every piece  ┐
    events.jsonl    →  batches and rows left out on the way                  ├→  rows trained once, more often, never
    trace, if any   →  the rows really handed out                            ┘   and whether the two tell the same

Rows are counted as intervals of row groups: the work grows with the row groups, not with the rows, and of epochs in
which nothing special happened one is counted for all. Only comparing a trace takes time and memory for every row.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.reading import Reading
from data.storage.manifest_file import load_manifest
from trainer.analysis.audit.intervals import Cover, count, intervals_of_epoch
from trainer.analysis.audit.lineage import Lineage, read_lineage
from trainer.analysis.audit.trace_check import Trace, compare
from trainer.checkpoint.ownership import check_owner, check_writer
from trainer.checkpoint.places import checkpoint_folder
from trainer.datasets import end_of_training, train_reading
from trainer.errors import CheckpointError, ConfigError
from trainer.run.directory import RunDirectory
from trainer.run.origin import Origin, origin_of
from trainer.run.starts import RunStart, gaps, read_starts, surviving


@dataclass(frozen=True)
class EpochAccount:
    """What became of the dataset's rows in each of some epochs that are alike; epochs count from 0."""

    first_epoch: int
    last_epoch: int
    rows: int
    trained_once: int
    trained_more: int
    """Trained more than once."""
    beyond_end: int
    """Never trained: their batches lie beyond train.samples."""
    not_reached: int
    """Never trained: no checkpoint has got so far yet."""
    incomplete_batch: int
    """Never trained: they do not fill a last global batch."""
    skipped_batch: int
    """Never trained: in batches left out for a loss or gradient that is not finite."""
    unreadable: int
    """Never trained: their row group could not be read."""
    bad_value: int
    """Never trained: they hold a value that cannot be used, and weighed 0."""
    lost: int
    """Never trained: no start accounts for their samples."""
    traced: int | None
    """Rows handed out by the trace; None: no trace."""

    @property
    def never(self) -> int:
        """Rows not trained."""
        return self.rows - self.trained_once - self.trained_more

    @property
    def unexplained(self) -> int:
        """Rows not trained, beyond those that the reasons above explain."""
        reasons = (self.beyond_end, self.not_reached, self.incomplete_batch, self.skipped_batch)
        return self.never - sum(reasons) - self.unreadable - self.bad_value - self.lost

    @property
    def name(self) -> str:
        """`epoch 3` or `epochs 1–7`."""
        several = self.first_epoch != self.last_epoch
        return f"epochs {self.first_epoch}–{self.last_epoch}" if several else f"epoch {self.first_epoch}"

    def record(self) -> dict[str, Any]:
        """The counts as one JSON object."""
        return {**asdict(self), "never": self.never, "unexplained": self.unexplained}


@dataclass(frozen=True)
class Audit:
    """What is proven of a run."""

    epochs: tuple[EpochAccount, ...]
    """Neighbours that are alike in one."""
    promises_broken: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    """Files that could not be read when the run began, with the reason: they are no part of the dataset."""


def audit_run(path: str | Path) -> Audit:
    """The audit of the run in a folder; raises ExpectedError if its records are missing or damaged."""
    run = RunDirectory(path)
    config = run.read_config()
    manifest = load_manifest(run.manifests["train"])
    origin = origin_of(run, config)
    reading = train_reading(config, manifest)
    starts = read_starts(run.segments)
    if not starts:
        raise ConfigError(f"{run.segments}: no start is recorded here; train the run first")

    lineage = read_lineage(starts, run.events, reading, end_of_training(config, reading))
    trace = Trace(run, origin, starts, lineage.ranges)
    broken = list(_broken_records(starts, lineage))
    broken += _broken_origins(run, origin, starts)
    broken += trace.missing

    accounts: list[EpochAccount] = []
    for epochs in lineage.stretches(each=bool(trace.files)):
        account, problems = _audit_epochs(lineage, epochs, trace)
        accounts.append(account)
        broken += problems

    return Audit(tuple(_folded(accounts)), tuple(broken), manifest.left_out)


def _broken_records(starts: list[RunStart], lineage: Lineage) -> Iterator[str]:
    """Promises that the records of the starts alone show to be broken."""
    reading = lineage.reading
    reached = starts[-1].reached

    for begin, end in gaps(surviving(starts), reached):
        yield f"samples {begin:,} to {end:,}: no start accounts for them, but a later one goes on from there"

    if reached > lineage.end:
        yield f"trained to {reached:,} samples, but train.samples ends the run at {lineage.end:,}"

    for start in starts:
        for problem in _broken_start(start, reading):
            yield f"start {start.segment}{problem}"


def _broken_start(start: RunStart, reading: Reading) -> Iterator[str]:
    fingerprints = reading.manifest.fingerprints
    if start.fingerprint not in fingerprints:
        data = f"fingerprint {start.fingerprint!r}, the run's dataset has {fingerprints[0]!r}"
        yield f" trained on other data: {data}"

    batch = reading.global_batch_size
    for key, samples in (("from", start.begin), ("to", start.reached)):
        if samples % batch:
            yield f": {key} = {samples:,} is no multiple of the batch of {batch:,}"

    if reading.lanes % start.world_size:
        yield f": its {start.world_size} ranks do not divide the {reading.lanes} lanes"


def _broken_origins(run: RunDirectory, origin: Origin, starts: list[RunStart]) -> Iterator[str]:
    """Starts and checkpoints that are not of this run, or do not belong together."""
    for start in starts:
        if not origin.is_own(start.run):
            yield f"start {start.segment} is of another run (its id is {start.run!r}, not {origin.identity!r})"

    folder = checkpoint_folder(run, run.read_config())
    for name in folder.names():
        try:
            state = folder.state(name)
            check_owner(folder.where(name), state, origin)
            check_writer(folder.where(name), state, starts)
        except CheckpointError as error:
            # A run that is being trained deletes its oldest checkpoints meanwhile.
            if name in folder.names():
                yield f"checkpoint {error}"


def _audit_epochs(lineage: Lineage, epochs: range, trace: Trace) -> tuple[EpochAccount, list[str]]:
    """The account of epochs that are like the first of them, and what does not add up, in words."""
    epoch = epochs[0]
    if not lineage.parts(epoch):
        return _account(lineage, epochs, Cover()), []

    layout = intervals_of_epoch(lineage.reading, epoch)
    trained = lineage.rows(lineage.trained_parts(epoch), epoch, layout)
    unreadable = lineage.unreadable_rows(epoch, layout)
    bad_value = lineage.bad_rows(epoch, layout)
    cover = count(trained, unreadable, bad_value, lineage.reading.manifest.first_row)
    account = _account(lineage, epochs, cover)

    problems = []
    if account.trained_more:
        problems.append(f"{account.name}: {account.trained_more:,} rows were trained more than once")

    if account.unexplained:
        problems.append(f"{account.name}: {account.unexplained:,} rows were never trained, and nothing explains it")

    traced, differences = compare(lineage, epoch, layout, trace)
    return replace(account, traced=traced), [*problems, *differences]


def _account(lineage: Lineage, epochs: range, cover: Cover) -> EpochAccount:
    epoch = epochs[0]
    begin = epoch * lineage.epoch_samples
    end = begin + lineage.epoch_samples

    def inside(samples: int) -> int:
        return min(max(samples, begin), end)

    reached = inside(lineage.reached)
    planned = inside(max(lineage.end, lineage.reached))
    survived = sum(part.num_samples for part in lineage.parts(epoch))
    kept = sum(part.num_samples for part in lineage.trained_parts(epoch))

    return EpochAccount(
        first_epoch=epoch,
        last_epoch=epochs[-1],
        rows=lineage.reading.manifest.num_rows,
        trained_once=cover.once,
        trained_more=cover.more,
        beyond_end=end - planned,
        not_reached=planned - reached,
        incomplete_batch=lineage.reading.dropped_rows,
        skipped_batch=survived - kept,
        unreadable=cover.unreadable,
        bad_value=cover.bad_value,
        lost=reached - begin - survived,
        traced=None,
    )


def _folded(accounts: list[EpochAccount]) -> Iterator[EpochAccount]:
    """The accounts, neighbours with equal counts in one."""
    current = accounts[0]
    for account in accounts[1:]:
        if replace(account, first_epoch=current.first_epoch) == replace(current, last_epoch=account.last_epoch):
            current = replace(current, last_epoch=account.last_epoch)
        else:
            yield current
            current = account

    yield current
