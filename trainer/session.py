"""Everything before the first step: checks, the newest whole checkpoint, the records of this start.

Nothing is written before all input has been checked, on all ranks.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
import torchrec
from torch.distributed.distributed_c10d import _get_default_store  # there is no public way to torchrun's store

from data.collisions import crowded_tables
from data.manifest import as_before, load_manifest
from data.statistics import measure
from data.stream import Reading, stream
from data.trace import TraceWriter
from models.ranker import Ranker
from trainer.build_model import ShardedModel, build_sharded_model
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.storage import State
from trainer.clock import Clock
from trainer.config.measured import complete, complete_from, is_complete, odd_columns
from trainer.config.run_config import Config
from trainer.data_faults import DataFaults
from trainer.datasets import (
    build_columns,
    check_lanes,
    check_same_kinds,
    end_of_training,
    open_dataset,
    test_reading,
    train_reading,
)
from trainer.distributed.preemption import Stopped, StopRequest
from trainer.distributed.watchdog import HangWatchdog
from trainer.distributed.world import World
from trainer.errors import CheckpointError, ConfigError, RunError
from trainer.evaluation.by_value import check_first_values
from trainer.evaluation.evaluator import Evaluator
from trainer.logging.tables import plan_table
from trainer.logging.train_log import TrainLog
from trainer.milestones import missed_milestones, with_pending_milestones
from trainer.profiler import profiled
from trainer.run.directory import RunDirectory, plain
from trainer.run.origin import Origin, check_writer, origin_of, with_identity
from trainer.run.shared_storage import check_shared
from trainer.run.starts import End, StartLog, read_starts
from trainer.step_guard import StepGuard
from trainer.train_batches import TrainBatches


@dataclass(frozen=True)
class Components:
    """Everything that the loop works with."""

    config: Config
    world: World
    run: RunDirectory
    clock: Clock
    end: int
    supply: TrainBatches
    sharded: ShardedModel
    evaluator: Evaluator
    checkpoints: Checkpoints
    state: State
    """Of the checkpoints of this start, but for what changes from one to the next."""
    segments: StartLog
    guard: StepGuard
    faults: DataFaults
    watch: HangWatchdog
    log: TrainLog

    def note_saved(self, state: State, seconds: float) -> None:
        """Writes down that a checkpoint is visible, `seconds` after its save began. On rank 0."""
        self.segments.reached(state.samples)
        try:
            self.log.event("checkpoint", state.samples, pinned=state.pinned, seconds=round(seconds, 3))
        except OSError as error:
            raise RunError(f"{self.run.events}: cannot be written ({error.strerror})") from error


@dataclass(frozen=True)
class _Ready:
    """What has been checked and loaded; nothing has been written."""

    config: Config
    """With what the data has decided."""
    run: RunDirectory
    reading: Reading
    test: Reading
    clock: Clock
    end: int
    sharded: ShardedModel
    checkpoints: Checkpoints
    origin: Origin
    found: State | None
    """The checkpoint that has been loaded."""
    problems: list[str]
    """What is wrong with newer ones."""
    remarks: list[str]
    """What is odd about the data, at the first start: columns without anything to learn, tables with too few rows."""


@contextmanager
def start(config: Config, world: World, *, profile: bool = False) -> Iterator[Components]:
    """The parts of the run in `config.run.dir`, from its newest whole checkpoint on. Collective: call on all ranks."""
    with ExitStack() as stack:
        watch = stack.enter_context(HangWatchdog(world, _get_default_store(), config.run.hang_seconds))
        ready = _check_and_load(config, world, watch, stack)
        config = ready.config
        watch.beat("start of the run's records")
        segments, state = _begin(config, world, ready, stack)
        run, reading, clock, sharded = ready.run, ready.reading, ready.clock, ready.sharded
        stop = stack.enter_context(StopRequest(config.checkpoint.grace_seconds, speaks=world.is_rank_zero).listening())
        trace = run.trace_file(state.segment, world.rank) if config.run.trace else None
        batches = stream(
            reading,
            world.lanes(reading.lanes),
            clock.samples,
            threads=config.data.threads,
            pin=world.device.type == "cuda",
            trace=world.raise_on_all_ranks(lambda: TraceWriter(trace, state.run) if trace else None),
        )
        stack.callback(batches.close)
        supply = TrainBatches(batches, reading, len(world.lanes(reading.lanes)))
        head = cast(Ranker, sharded.model.module).head
        guard = StepGuard(world, stop, watch, supply, config.checkpoint.every_minutes)
        guard.attach(head, sharded.pipeline)
        log = TrainLog(config, world, run, state, clock.samples, ready.end)
        stack.callback(log.close)
        log.watch_gates(head)
        log.watch_data(reading.columns, batches.not_finite_D)
        if profile:
            stack.enter_context(profiled(sharded.pipeline, run.profile, world, log))
        if ready.found is not None:
            log.restore(ready.found.log)
        evaluator = Evaluator(config, world, sharded, ready.test)
        faults = DataFaults(config, world, reading, supply, log)
        _announce(config, ready, log)
        pending = world.on_rank_zero(lambda: with_pending_milestones(config, run, ready.end))
        with _noting_the_end(segments, world):
            yield Components(
                pending, world, run, clock, ready.end, supply, sharded, evaluator, ready.checkpoints, state, segments,
                guard, faults, watch, log,
            )  # fmt: skip


def _check_and_load(config: Config, world: World, watch: HangWatchdog, stack: ExitStack) -> _Ready:
    watch.beat("reading of the datasets")
    check_lanes(config, world)
    run = RunDirectory(config.run.dir)
    world.on_rank_zero(lambda: run.check(config))
    world.on_rank_zero(lambda: _keep_others_out(stack, run) if run.config_file.exists() else None)
    check_shared(run.path, world)
    reading, test = _open(config, world, run)
    world.on_rank_zero(lambda: run.check_data(reading.manifest, test.manifest))
    measured, remarks = world.on_rank_zero(lambda: _completed(config, run, reading))
    config = measured.model_copy(update={"run": config.run, "data": config.data})  # each rank's own paths
    columns = build_columns(config)
    reading, test = replace(reading, columns=columns), replace(test, columns=columns)
    clock, end = Clock(reading.global_batch_size), end_of_training(config, reading)
    watch.beat("sharding of the model")
    sharded = build_sharded_model(config, world, end)
    origin = world.on_rank_zero(lambda: origin_of(run, config))
    checkpoints = Checkpoints(run.checkpoints, world, origin)
    watch.beat("loading of a checkpoint")
    found, problems = checkpoints.newest()
    world.on_rank_zero(lambda: _check_starts(run, origin, found))
    if found is not None:
        checkpoints.load(found, sharded.model, sharded.optimizer)
        clock.samples = found.samples
    elif problems:
        raise CheckpointError(f"{problems[0]}; no checkpoint of this run is whole: restore one, or remove the folder")
    if clock.samples > end:
        raise ConfigError(
            f"train.samples ends the run at {end:,}, but it is at {clock.samples:,} already; train longer"
        )
    watch.beat("reading of the first batches")
    for column in config.evaluate.by:
        world.on_rank_zero(partial(check_first_values, column, test.manifest))
    world.raise_on_all_ranks(lambda: check_first_batch(reading, world, clock.samples))
    world.raise_on_all_ranks(lambda: check_first_batch(test, world, 0))
    if found is None:
        remarks += map(str, world.on_rank_zero(lambda: crowded_tables(reading)))
    return _Ready(config, run, reading, test, clock, end, sharded, checkpoints, origin, found, problems, remarks)


def _begin(config: Config, world: World, ready: _Ready, stack: ExitStack) -> tuple[StartLog, State]:
    """Makes the run's folder fit to go on in; the record of this start, and what its checkpoints have in common."""
    run, samples, train, test = ready.run, ready.clock.samples, ready.reading.manifest, ready.test.manifest
    world.on_rank_zero(lambda: _keep_others_out(stack, run))
    world.on_rank_zero(lambda: run.create(config, train, test))
    world.on_rank_zero(lambda: run.forget_after(samples))
    ready.checkpoints.clear_after(samples)
    identity = world.on_rank_zero(lambda: with_identity(run, ready.origin))
    segments = StartLog(run.segments, identity)
    writer = ready.found.segment if ready.found is not None else None
    segment = world.on_rank_zero(
        lambda: segments.start(samples, world.size, train.fingerprint, writer, trace=config.run.trace)
    )
    state = State(
        samples=samples,
        pinned=False,
        segment=segment,
        world_size=world.size,
        plan={placement.table: placement.sharding for placement in ready.sharded.placements},
        fingerprints={"train": train.fingerprint, "test": test.fingerprint},
        config=plain(config),
        log={},
        versions={"torch": torch.__version__, "torchrec": torchrec.__version__},
        files={},
        run=identity,
    )
    return segments, state


def _check_starts(run: RunDirectory, origin: Origin, found: State | None) -> None:
    """ExpectedError where the line of starts is of another run, or does not lead to the checkpoint that was found."""
    segments = read_starts(run.segments)
    origin.check_starts(run.segments, segments)
    if found is not None:
        check_writer(run.checkpoints / str(found.samples), found, segments)


def check_first_batch(reading: Reading, world: World, samples: int) -> None:
    """Reads this rank's first batch after `samples`; DataError where it is bad."""
    batches = stream(reading, world.lanes(reading.lanes), samples)
    try:
        batches.wait_for_first()
    finally:
        batches.close()


def _completed(config: Config, run: RunDirectory, reading: Reading) -> tuple[Config, list[str]]:
    """The config with the numbers of its run, or at the first start with those measured on the training data.

    And what is odd about the columns that were measured, a line each.
    """
    if run.config_file.exists():
        return complete_from(config, run.read_config()), []
    if is_complete(config):
        return config, []

    statistics = measure(reading)
    return complete(config, statistics), odd_columns(config, statistics)


@contextmanager
def _noting_the_end(segments: StartLog, world: World) -> Iterator[None]:
    """Notes in the segment how it ended; a process that is killed notes nothing."""
    reason: End = "failed"
    try:
        yield
        reason = "finished"
    except Stopped:
        reason = "stopped"
        raise
    finally:
        if world.is_rank_zero:
            with suppress(RunError):  # the disk is full: that has been told, or does not matter any more
                segments.finish(reason)


def _keep_others_out(stack: ExitStack, run: RunDirectory) -> None:
    """Keeps other starts out of the run's folder; nothing that could be sent to the other ranks comes of it."""
    stack.enter_context(run.locked())


def _open(config: Config, world: World, run: RunDirectory) -> tuple[Reading, Reading]:
    train_data = open_dataset(config.data.train, config, world, config.data.on_bad_file)
    known = run.manifests["train"]
    if config.data.on_bad_file == "skip":  # what has become unreadable, or readable, since the first start
        now = train_data
        before = world.on_rank_zero(lambda: as_before(load_manifest(known), now) if known.exists() else now)
        train_data = replace(before, uri=now.uri, root=now.root)  # each rank's own copy
    test_data = open_dataset(config.data.test, config, world)
    check_same_kinds(train_data, test_data, config)
    return train_reading(config, train_data), test_reading(config, test_data, world.size)


def _announce(config: Config, ready: _Ready, log: TrainLog) -> None:
    run, reading, sharded, samples, batch = (
        ready.run,
        ready.reading,
        ready.sharded,
        ready.clock.samples,
        ready.clock.batch,
    )
    log.describe(sharded.placements)
    log.print(plan_table(sharded.placements))
    dense = sum(parameter.numel() for parameter in cast(Ranker, sharded.model.module).head.parameters())
    log.print(f"dense parameters {dense:,} · {reading.manifest.num_rows:,} training rows · batch {batch:,}")
    for problem in ready.problems:
        log.event("damaged_checkpoint", samples, problem=problem)
        log.warn(f"{problem}; set aside, the checkpoint before it is taken")
    for file, reason in reading.manifest.left_out:
        log.warn(f"{file} is left out: {reason}")
    for text in ready.remarks:
        log.warn(text)
    for text in missed_milestones(config, run, samples, ready.end):
        log.warn(text)
    if samples:
        log.print(f"resumed at {samples:,} of {ready.end:,} samples")
    passes = -(-ready.end // (reading.batches_per_epoch * batch))
    if reading.dropped_rows:
        log.print(
            f"{reading.dropped_rows} rows of each pass do not fill a last global batch and are left out "
            f"({passes} pass{'es' * (passes > 1)})"
        )
