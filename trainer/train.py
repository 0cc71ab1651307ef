"""The training loop."""

from dataclasses import replace
from functools import partial
from itertools import islice

from data.hashing import stable_seed
from trainer.config.run_config import Config
from trainer.distributed.preemption import Stopped
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.session import Components, start


def train(config: Config, world: World, *, profile: bool = False) -> None:
    """Trains the run in `config.run.dir` to its end, from its newest checkpoint on. Collective: call on all ranks.

    `profile` records a few steps for TensorBoard or Perfetto. Raises Stopped once the run has been saved on request,
    and RunError if it cannot go on.
    """
    with start(config, world, profile=profile) as components:
        try:
            run_loop(components)
        except RunError:
            # Raised on all ranks alike, so that the save under way still succeeds and is worth waiting for.
            components.checkpoints.finish()
            raise

        components.log.finish()


def run_loop(components: Components) -> None:
    """Trains to the end; evaluates, logs and saves whenever that is due on the samples clock."""
    clock = components.clock
    schedule = components.schedule
    log = components.log
    seed = components.config.run.seed
    world = components.world
    save_for_good = partial(save, components, pinned=True)
    between_batches = partial(_between_batches, components)

    while True:
        components.evaluations.make(clock.samples, save=save_for_good, between=between_batches)
        if components.is_over:
            break

        # The pipeline prefetches. It gets no batch beyond the next evaluation, so that it is empty there.
        leg_end = schedule.next_stop(clock.samples)
        batches = islice(components.batches, (leg_end - clock.samples) // clock.batch)

        while clock.samples < leg_end:
            components.watchdog.beat(f"step at {clock.samples:,} samples")
            learning_rate = components.sharded.optimizer.schedule(clock.samples + clock.batch / 2)
            # Dropout depends on the samples and the rank alone: a resumed run draws what an uninterrupted one does.
            world.generator.manual_seed(stable_seed(seed, "step", clock.samples, world.rank))

            settle = schedule.needs_account(clock.samples + clock.batch)
            steps = components.sharded.pipeline.train_step(batches, clock.samples, settle=settle)
            verdict = components.account_for(steps)
            clock.advance()

            if schedule.log(clock.samples):
                log.write(clock.samples, learning_rate, components.batches.times)

            # The checkpoint of an evaluation is saved before it, and kept for good.
            is_due = schedule.checkpoint(clock.samples) and not schedule.evaluation(clock.samples)
            if is_due or verdict.save or verdict.stop:
                save(components, pinned=False)
            if verdict.stop:
                _stop(components)

    _finish_saving(components)


def _between_batches(components: Components) -> None:
    """Between two batches of an evaluation."""
    components.watchdog.beat(f"evaluation at {components.clock.samples:,} samples")
    if components.guard.agree().stop:
        _stop(components)


def save(components: Components, *, pinned: bool) -> None:
    """Starts a save, which goes on in the background; `pinned`: the checkpoint is kept for good."""
    samples = components.clock.samples
    log = components.log
    state = replace(components.state, samples=samples, pinned=pinned, log=log.state(samples))

    components.guard.saved()
    components.watchdog.beat(f"save at {samples:,} samples")

    with log.pause():
        keep = components.config.checkpoint.keep
        problem = components.checkpoints.save(components.sharded, state, keep, components.note_saved)

    if problem:
        log.warn(f"{problem}; training goes on, the checkpoint before it stays")

    for text in components.checkpoints.warnings():
        log.warn(text)


def _stop(components: Components) -> None:
    _finish_saving(components)
    components.log.print(f"stopped on request at {components.clock.samples:,} samples; start again to go on")
    raise Stopped


def _finish_saving(components: Components) -> None:
    problem = components.checkpoints.finish()
    for text in components.checkpoints.warnings():
        components.log.warn(text)
    if problem:
        raise RunError(f"{problem}; make room or fix the storage, and start again to resume from the one before it")
