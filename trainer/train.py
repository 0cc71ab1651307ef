"""The training loop."""

from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch

from data.batch import Batch
from data.hashing import stable_seed
from data.prefetch import Prefetcher
from data.stream import Reading, stream
from models.ranker import Ranker
from trainer.build import (
    Trainee,
    build_trainee,
    check_lanes,
    check_same_types,
    end_of_training,
    open_dataset,
    test_reading,
    train_reading,
)
from trainer.checkpoint import Checkpoints
from trainer.clock import Clock, Due
from trainer.config import Config
from trainer.evaluate import Evaluator
from trainer.log import TrainLog
from trainer.report import evaluation_table, plan_table, result_table
from trainer.run_directory import RunDirectory, read_records
from trainer.world import World


@dataclass(frozen=True)
class Parts:
    """Everything that the loop works with."""

    config: Config
    world: World
    clock: Clock
    end: int
    batches: Prefetcher[Batch]
    trainee: Trainee
    evaluator: Evaluator
    checkpoints: Checkpoints
    log: TrainLog


def train(config: Config, world: World) -> None:
    """Trains the run in `config.run.dir` to its end, from its newest checkpoint on. Collective: call on all ranks."""
    check_lanes(config, world)
    run = RunDirectory(config.run.dir)
    world.on_first(lambda: run.check(config))
    reading, test = _open(config, world)
    clock, end = Clock(reading.global_batch_size), end_of_training(config, reading)
    trainee = build_trainee(config, world, end)
    checkpoints = Checkpoints(run.checkpoints, world, config.checkpoint.keep)
    newest = world.on_first(checkpoints.names)[-1:]
    if newest:
        clock.samples = checkpoints.load(newest[0], trainee.model, trainee.optimizer)
    batches = stream(
        reading,
        world.lanes(reading.lanes),
        clock.samples,
        threads=config.data.threads,
        pin=world.device.type == "cuda",
    )
    world.on_all(batches.wait_for_first)
    world.on_all(lambda: check_first_batch(test, world))
    world.on_first(lambda: run.create(config))
    world.on_first(lambda: run.forget_after(clock.samples))
    log = TrainLog(config, world, run, clock.samples, end)
    _announce(log, trainee, reading, clock, end)
    evaluator = Evaluator(config, world, trainee, test)
    try:
        run_loop(Parts(config, world, clock, end, batches, trainee, evaluator, checkpoints, log))
        log.print(result_table(read_records(run.evaluations)))
    finally:
        batches.close()
        log.close()


def check_first_batch(reading: Reading, world: World) -> None:
    """Reads this rank's first batch of a dataset; DataError where it is bad."""
    batches = stream(reading, world.lanes(reading.lanes), 0)
    try:
        batches.wait_for_first()
    finally:
        batches.close()


def run_loop(parts: Parts) -> None:
    """Trains to the end; logs, evaluates and saves when due on the samples clock."""
    config, clock, log, trainee = parts.config, parts.clock, parts.log, parts.trainee
    milestones = tuple(milestone.samples for milestone in config.evaluate.at_samples)
    due_evaluation = Due(batch=clock.batch, end=parts.end, at=(*milestones, parts.end))
    due_log = Due(batch=clock.batch, end=parts.end, every=config.log_every)
    due_checkpoint = Due(batch=clock.batch, end=parts.end, every=config.checkpoint.every_samples)
    while clock.samples < parts.end:
        leg_end = due_evaluation.next(clock.samples)  # the pipeline runs empty where the model is evaluated
        batches = islice(parts.batches, (leg_end - clock.samples) // clock.batch)
        while clock.samples < leg_end:
            learning_rate = trainee.optimizer.schedule(clock.samples + clock.batch / 2)
            torch.manual_seed(stable_seed(config.run.seed, "step", clock.samples, parts.world.rank))
            outcome = trainee.pipeline.progress(batches)
            clock.advance()
            log.update(outcome)
            if due_log(clock.samples):
                log.write(clock.samples, learning_rate, parts.batches.wait_seconds)
            if due_checkpoint(clock.samples) and clock.samples < leg_end:
                with log.pause():
                    parts.checkpoints.save(trainee.model, trainee.optimizer, clock.samples, pinned=False)
        with log.pause():
            _evaluate(parts, due_evaluation)
            parts.checkpoints.save(trainee.model, trainee.optimizer, clock.samples, pinned=True)


def _evaluate(parts: Parts, due: Due) -> None:
    samples = parts.clock.samples
    reached: list[str | None] = [
        entry.text for entry in parts.config.evaluate.at_samples if due.boundary(entry.samples) == samples
    ]
    found = parts.evaluator.run(samples)
    for milestone in reached or [None]:
        records = [{**record, "milestone": milestone} for record in found]
        parts.log.write_evaluation(samples, records)
        parts.log.print(evaluation_table(records))


def _open(config: Config, world: World) -> tuple[Reading, Reading]:
    train_data = open_dataset(config.data.train, config, world)
    test_data = open_dataset(config.data.test, config, world)
    check_same_types(train_data, test_data, config)
    return train_reading(config, train_data), test_reading(config, test_data)


def _announce(log: TrainLog, trainee: Trainee, reading: Reading, clock: Clock, end: int) -> None:
    log.print(plan_table(trainee.placements))
    dense = sum(parameter.numel() for parameter in cast(Ranker, trainee.model.module).head.parameters())
    log.print(f"dense parameters {dense:,} · {reading.manifest.num_rows:,} training rows · batch {clock.batch:,}")
    if clock.samples:
        log.print(f"resumed at {clock.samples:,} of {end:,} samples")
    passes = -(-end // (reading.batches_per_epoch * clock.batch))
    if reading.dropped_rows:
        log.print(
            f"{reading.dropped_rows} rows of each pass do not fill a last global batch and are left out "
            f"({passes} pass{'es' * (passes > 1)})"
        )
