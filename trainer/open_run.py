"""A run is opened to be trained: its newest checkpoint loaded, its folder made ready, this start recorded."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import torch
import torchrec

from data.collisions import Crowding, crowded_tables
from models.balancers.balancer import Balancer
from models.heads.base import Head
from models.ranker import Ranker
from trainer.build_model import ShardedModel, build_sharded_model
from trainer.checkpoint.folder import CheckpointFolder
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.ownership import check_writer, lost_samples
from trainer.checkpoint.places import checkpoint_folder
from trainer.checkpoint.state import State
from trainer.clock import Clock
from trainer.config.compatibility import plain
from trainer.distributed.watchdog import HangWatchdog
from trainer.distributed.world import World
from trainer.errors import CheckpointError, ConfigError
from trainer.inputs import Inputs, check_first_batches, patience_of
from trainer.run.origin import with_identity
from trainer.run.starts import StartLog, read_starts
from trainer.warm_start.source import open_source
from trainer.warm_start.weights import Taken, take_weights


@dataclass(frozen=True)
class Loaded:
    """The model, with the weights of the newest complete checkpoint if there is one."""

    sharded: ShardedModel
    checkpoints: Checkpoints
    clock: Clock
    state: State | None
    """Of the checkpoint that was loaded."""
    problems: list[str]
    """What is wrong with newer checkpoints, a line each."""
    taken: list[Taken]
    """What a first start takes from the run in `init.from`."""
    crowded: list[Crowding]
    """Hashed tables with few rows for their ids; looked for at the first start only."""

    @property
    def head(self) -> Head:
        """The multi-task head, which DDP trains."""
        return cast(Ranker, self.sharded.model.module).head

    @property
    def balancer(self) -> Balancer | None:
        """What weighs the tasks, if they are not simply added up."""
        return cast(Ranker, self.sharded.model.module).balancer


@dataclass(frozen=True)
class Opened:
    """The record of this start."""

    starts: StartLog
    state: State
    """What the checkpoints of this start have in common."""


def load_newest(inputs: Inputs, world: World, watchdog: HangWatchdog) -> Loaded:
    """The sharded model with its newest complete checkpoint; the run's folder is only read.

    Raises CheckpointError if there are checkpoints but none is complete, and ConfigError if the run is beyond its end.
    Collective: call on all ranks.
    """
    watchdog.beat("sharding of the model")
    config = inputs.config
    sharded = build_sharded_model(config, world, inputs.end)
    folder = checkpoint_folder(inputs.run, config)
    checkpoints = Checkpoints(folder, world, inputs.origin, inputs.records, inputs.run.lock.check)
    clock = Clock(inputs.train.global_batch_size)

    watchdog.beat("loading of a checkpoint")
    state, problems = checkpoints.newest()
    problems += world.on_rank_zero(lambda: _check_starts(inputs, folder, state, checkpoints.found))

    if state is not None:
        checkpoints.load(state, sharded.model, sharded.optimizer)
        clock.samples = state.samples
    elif problems:
        raise CheckpointError(f"{problems[0]}; no checkpoint of this run is whole: restore one, or remove the folder")

    taken: list[Taken] = []
    if state is None and config.init is not None:
        watchdog.beat("loading of the run in init.from")
        taken = take_weights(config, inputs.source or open_source(config.init, world), sharded)

    if clock.samples > inputs.end:
        raise ConfigError(
            f"train.samples ends the run at {inputs.end:,}, but it is at {clock.samples:,} already; train longer"
        )

    watchdog.beat("reading of the first batches")
    check_first_batches(inputs, world, clock.samples)
    crowded = [] if state is not None else world.on_rank_zero(lambda: crowded_tables(inputs.train))
    return Loaded(sharded, checkpoints, clock, state, problems, taken, crowded)


def _check_starts(inputs: Inputs, folder: CheckpointFolder, state: State | None, found: list[str]) -> list[str]:
    """What is wrong with the names that were found, a line each.

    Raises an ExpectedError if the recorded starts are of another run, or do not lead to the checkpoint `state`.
    """
    run = inputs.run
    starts = read_starts(run.segments)
    inputs.origin.check_starts(run.segments, starts)
    if state is not None:
        check_writer(folder.where(str(state.samples)), state, starts)

    lost = lost_samples(starts, found)
    if lost is None:
        return []
    if not found and inputs.records is None and run.read_config().checkpoint.dir is None:
        return []  # removed by someone who wants to begin anew
    if not found:
        raise CheckpointError(
            f"{folder.where()}: no checkpoint is here, but the run has saved one at {lost:,} samples; set "
            f"checkpoint.dir to where it is, or remove {run.path} to begin anew"
        )
    return [f"{folder.where(str(lost))}: was saved, and is gone"]


def open_run(inputs: Inputs, loaded: Loaded, world: World, lock: ExitStack) -> Opened:
    """Makes the run's folder ready to go on in, and records this start. Collective: call on all ranks.

    A new run is kept locked until `lock` is closed, on rank 0.
    """
    config = inputs.config
    samples = loaded.clock.samples
    train = inputs.train.manifest
    fingerprints = {"train": train.fingerprint}
    if inputs.test is not None:
        fingerprints["test"] = inputs.test.manifest.fingerprint

    identity = world.on_rank_zero(lambda: _prepare_folder(inputs, samples, lock))
    starts = StartLog(inputs.run.segments, identity, inputs.run.lock.check)
    writer = loaded.state.segment if loaded.state is not None else None

    def record_start() -> int:
        return starts.start(samples, world.size, train.fingerprint, writer, trace=config.run.trace)

    segment = world.on_rank_zero(record_start)
    if inputs.records is not None:
        records = inputs.records
        world.on_rank_zero(lambda: records.claim(identity))
    loaded.checkpoints.clear_after(samples)
    plan = {placement.table: placement.sharding for placement in loaded.sharded.placements}
    state = State(
        samples=samples,
        pinned=False,
        segment=segment,
        world_size=world.size,
        plan=plan,
        fingerprints=fingerprints,
        config=plain(config),
        log={},
        versions={"torch": torch.__version__, "torchrec": torchrec.__version__},
        files={},
        run=identity,
    )

    return Opened(starts, state)


def _prepare_folder(inputs: Inputs, samples: int, lock: ExitStack) -> str:
    """The run's id. Called on rank 0."""
    run = inputs.run
    if not inputs.run_exists:
        lock.enter_context(run.locked(patience_of(inputs.config)))
    run.lock.check()
    test = inputs.test.manifest if inputs.test else None
    run.create(inputs.config, inputs.train.manifest, test, inputs.train.columns.vocabularies)
    run.forget_after(samples)
    return with_identity(run, inputs.origin)
