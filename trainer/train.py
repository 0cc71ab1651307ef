"""The training loop."""

from dataclasses import replace
from itertools import islice

import torch

from data.hashing import stable_seed
from trainer.clock import Due
from trainer.config.run_config import Config
from trainer.distributed.preemption import Stopped
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.run.directory import read_records
from trainer.session import Components, start


def train(config: Config, world: World, *, profile: bool = False) -> None:
    """Trains the run in `config.run.dir` to its end, from its newest checkpoint on. Collective: call on all ranks.

    `profile` records a few steps for TensorBoard or Perfetto. Raises Stopped once the run has been saved on request,
    RunError where it cannot go on.
    """
    with start(config, world, profile=profile) as parts:
        try:
            run_loop(parts)
        except RunError:  # of all ranks alike: the save under way is worth waiting for
            parts.checkpoints.finish()
            raise
        parts.log.finish(read_records(parts.run.evaluations))


def run_loop(parts: Components) -> None:
    """Trains to the end; logs, saves and evaluates when due on the samples clock."""
    config, clock, log, sharded, guard = parts.config, parts.clock, parts.log, parts.sharded, parts.guard
    milestones = tuple(milestone.samples for milestone in config.evaluate.at_samples)
    due_evaluation = Due(batch=clock.batch, end=parts.end, at=(*milestones, parts.end))
    due_log = Due(batch=clock.batch, end=parts.end, every=config.log_every)
    due_checkpoint = Due(batch=clock.batch, end=parts.end, every=config.checkpoint.every_samples)
    while True:
        if due_evaluation(clock.samples):
            _evaluate(parts, due_evaluation)
        if clock.samples >= parts.end:
            break
        leg_end = due_evaluation.next(clock.samples)  # the pipeline runs empty where the model is evaluated
        batches = islice(parts.supply, (leg_end - clock.samples) // clock.batch)
        while clock.samples < leg_end:
            parts.watch.beat(f"step at {clock.samples:,} samples")
            learning_rate = sharded.optimizer.schedule(clock.samples + clock.batch / 2)
            torch.manual_seed(stable_seed(config.run.seed, "step", clock.samples, parts.world.rank))
            output = sharded.pipeline.progress(batches)
            parts.faults.handle(guard.verdict, clock.samples)
            clock.advance()
            if not guard.verdict.unsound:
                log.update(output)
            if due_log(clock.samples):
                log.write(clock.samples, learning_rate, parts.supply.wait_seconds)
            due = due_checkpoint(clock.samples) and clock.samples < leg_end  # there it is kept for good
            if due or guard.verdict.save or guard.verdict.stop:
                _save(parts, pinned=False)
            if guard.verdict.stop:
                _stop(parts)
    _finish_saving(parts)


def _evaluate(parts: Components, due: Due) -> None:
    """Saves for good and evaluates, at a milestone or the end, unless a start before this one has."""
    samples, log = parts.clock.samples, parts.log
    reached = [entry.text for entry in parts.config.evaluate.at_samples if due.boundary(entry.samples) == samples]
    tasks = [task.name for task in parts.config.tasks if not task.auxiliary]
    if not parts.world.on_rank_zero(lambda: parts.run.needs_evaluation(samples, list(reached) or [None], tasks)):
        return
    _save(parts, pinned=True)

    def between_batches() -> None:
        parts.watch.beat(f"evaluation at {samples:,} samples")
        if parts.guard.meet().stop:
            _stop(parts)

    with log.pause():
        found = parts.evaluator.run(samples, between_batches)
    log.write_evaluation(samples, found, reached)


def _save(parts: Components, *, pinned: bool) -> None:
    """Starts a save; it goes on while the loop does."""
    state = replace(parts.state, samples=parts.clock.samples, pinned=pinned, log=parts.log.state())
    parts.guard.saved()
    parts.watch.beat(f"save at {parts.clock.samples:,} samples")
    with parts.log.pause():
        problem = parts.checkpoints.save(parts.sharded, state, parts.config.checkpoint.keep, parts.note_saved)
    if problem:
        parts.log.warn(f"{problem}; training goes on, the checkpoint before it stays")
    for text in parts.checkpoints.warnings():
        parts.log.warn(text)


def _stop(parts: Components) -> None:
    _finish_saving(parts)
    parts.log.print(f"stopped on request at {parts.clock.samples:,} samples; start again to go on")
    raise Stopped


def _finish_saving(parts: Components) -> None:
    problem = parts.checkpoints.finish()
    for text in parts.checkpoints.warnings():
        parts.log.warn(text)
    if problem:
        raise RunError(f"{problem}; make room or mend the disk, and start again to go on from the checkpoint before it")
