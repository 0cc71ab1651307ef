"""What a training starts from, checked before anything is written: the run's folder, the datasets, the config.

RUN/ ──────► fits the config? nobody trains in it? the same folder on all nodes?
datasets ──► readable? have every column? are those that the run began with?
             └► at the first start: vocabularies are found; means, scales and transforms that the config leaves open
                are measured
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from data.reading import Reading
from data.statistics import measure
from trainer.batches import open_stream
from trainer.checkpoint.places import check_place, checkpoint_folder, run_copy
from trainer.checkpoint.run_copy import RunCopy
from trainer.config.compatibility import Change, differences
from trainer.config.measured import complete, complete_from, is_complete, odd_columns, with_block_rows
from trainer.config.run_config import Config
from trainer.console import tell
from trainer.datasets import (
    as_configured,
    check_lanes,
    check_same_kinds,
    end_of_training,
    lacking_columns,
    open_dataset,
    test_reading,
    train_reading,
)
from trainer.distributed.clocks import check_clocks
from trainer.distributed.torchrun_env import announced_ranks
from trainer.distributed.watchdog import HangWatchdog
from trainer.distributed.world import World
from trainer.evaluation.by_value import check_first_values
from trainer.growth.known_data import known_data
from trainer.run.directory import RunDirectory
from trainer.run.origin import Origin, origin_of
from trainer.run.shared_storage import check_shared
from trainer.run.vocabularies import find_vocabularies, kept_vocabularies, with_digests
from trainer.warm_start.source import Source, check_kinds, grown_vocabularies, inherited, open_source


@dataclass(frozen=True)
class Inputs:
    """What has been checked; nothing has been written yet."""

    config: Config
    """With the numbers that were measured on the data."""
    run: RunDirectory
    run_exists: bool
    """Whether the folder held a run already; it is locked then."""
    records: RunCopy | None
    """What is kept of the run beside its checkpoints, where they are not in its folder."""
    train: Reading
    test: Reading | None
    end: int
    """Samples at the end of the training."""
    source: Source | None
    """The run whose weights a first start begins with."""
    origin: Origin
    """By which checkpoints and records of this run are recognised."""
    changes: list[Change]
    """What this start may and does change in the config of the run."""
    accepted: list[str]
    """Files of the training data whose new contents are accepted."""
    remarks: list[str]
    """What is odd about the data, a line each: columns that teach nothing. Found at the first start only."""


def check_inputs(config: Config, world: World, watchdog: HangWatchdog, lock: ExitStack) -> Inputs:
    """Checks everything that the user gives; raises an ExpectedError on all ranks if something is wrong.

    A run that exists already is kept locked until `lock` is closed, on rank 0. Collective: call on all ranks.
    """
    watchdog.beat("reading of the datasets")
    check_lanes(config, world)
    run = RunDirectory(config.run.dir)
    check_clocks(world)
    check_place(config, world)
    records = run_copy(run, config)
    run_exists, changes = world.on_rank_zero(partial(_check_folder, run, config, records, lock))
    if records is None or config.run.trace:
        check_shared(run.path, world)

    train, test, accepted = _open_datasets(config, world, run)
    source = None
    if run_exists:
        vocabularies = world.on_rank_zero(lambda: kept_vocabularies(run))
    else:
        if config.init is not None:
            watchdog.beat("opening of the run in init.from")
            source = open_source(config.init, world)
            config = inherited(config, source)
            world.on_rank_zero(partial(check_kinds, config, train.manifest, source))
        watchdog.beat("counting of ids")
        vocabularies = find_vocabularies(config, train, world, watchdog.alive)
        if source is not None:
            vocabularies = grown_vocabularies(vocabularies, config, source)

    watchdog.beat("measuring of the data")
    train = as_configured(train, config, vocabularies)
    measured = partial(_completed, with_digests(config, vocabularies), run, train, world.size)
    completed, origin, remarks = world.on_rank_zero(measured)
    # Each rank keeps its own paths: a run may be mounted elsewhere on another node, and a dataset may be a copy.
    data = config.data.model_copy(update={"block_rows": completed.data.block_rows})
    config = completed.model_copy(update={"run": config.run, "data": data})
    train = as_configured(train, config, vocabularies)
    test = test and as_configured(test, config, vocabularies)

    return Inputs(
        config=config,
        run=run,
        run_exists=run_exists,
        records=records,
        train=train,
        test=test,
        end=end_of_training(config, train),
        source=source,
        origin=origin,
        changes=changes,
        accepted=accepted,
        remarks=remarks,
    )


def check_first_batches(inputs: Inputs, world: World, samples: int) -> None:
    """Reads what this rank trains on after `samples`, and its first test batch; raises DataError if they are bad.

    Collective: call on all ranks.
    """
    if samples < inputs.end:  # else the batch after it would be the first of another pass
        world.raise_on_all_ranks(lambda: check_first_batch(inputs.train, world, samples))
    test = inputs.test
    if test is not None:
        world.on_rank_zero(partial(_check_values, inputs.config, test))
        world.raise_on_all_ranks(lambda: check_first_batch(test, world, 0))


def check_first_batch(reading: Reading, world: World, samples: int) -> None:
    """Reads this rank's first batch after `samples`; raises DataError if it is bad."""
    batches = open_stream(reading, world, samples)
    try:
        batches.wait_for_first()
    finally:
        batches.close()


def _check_folder(
    run: RunDirectory, config: Config, records: RunCopy | None, lock: ExitStack
) -> tuple[bool, list[Change]]:
    """Whether the folder holds a run already, which is locked then, and what changes in its config.

    To lock a new one would make its folder.
    """
    run.check(config)
    is_behind = records is not None and records.is_ahead(config)
    if not is_behind and not run.config_file.exists():
        return False, []
    if records is not None and is_behind:
        lock.push(records.undo)
    lock.enter_context(run.locked(patience_of(config)))
    if records is not None and is_behind:
        records.restore()
        run.check(config)
        tell("note", f"run.dir = {str(run.path)!r} has the records of this run from checkpoint.dir now")
    before = run.read_config()
    return True, differences(before, complete_from(config, before))


def patience_of(config: Config) -> float:
    """Seconds to wait for another start to leave the run.

    Where ranks are started again without one that was lost, that may still hold the run for a while, on its own.
    """
    return 2 * config.run.collective_seconds if announced_ranks().replaceable else 0


def _open_datasets(config: Config, world: World, run: RunDirectory) -> tuple[Reading, Reading | None, list[str]]:
    """Training and test data as the run knows them, and the training files whose new contents are accepted."""
    own = open_dataset(config.data.train_source, config, world, config.data.on_bad_file, trains=True)
    known = world.on_rank_zero(partial(known_data, config, run, own))
    if world.is_rank_zero and known.growth:
        tell("note", known.growth)
    train = replace(known.manifest, source=own.source, root=own.root)  # each rank's own copy

    source = config.data.test_source
    if source is None:
        return train_reading(config, train), None, known.accepted
    test = open_dataset(source, config, world)
    check_same_kinds(train, test, config)
    world.on_rank_zero(lambda: run.check_test(test, checkpoint_folder(run, config).names()))
    return train_reading(config, train), test_reading(config, test, world.size, {}), known.accepted


def _completed(config: Config, run: RunDirectory, train: Reading, world_size: int) -> tuple[Config, Origin, list[str]]:
    """The config with the numbers of its run, or at the first start with those measured on the training data.

    Also what the run is recognised by, and what is odd about the columns that were measured, a line each.
    """
    if run.config_file.exists():
        completed = complete_from(config, run.read_config())
        return completed, origin_of(run, completed), []
    remarks = lacking_columns(train)
    if not is_complete(config):
        statistics = measure(train)
        remarks += odd_columns(config, statistics)
        config = complete(config, statistics)
    train = as_configured(train, config, train.columns.vocabularies)
    config = with_block_rows(config, train, world_size)
    return config, origin_of(run, config), remarks


def _check_values(config: Config, test: Reading) -> None:
    for column in config.evaluate.by:
        check_first_values(column, test.manifest)
