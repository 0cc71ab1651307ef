"""What the training loop works with, made ready.

check_inputs ─► load_newest ─► open_run ─► Components ─► the loop
(all that the   (model and     (from here on, something
 user gives)    checkpoint)     is written into RUN/)
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from torch.distributed.distributed_c10d import _get_default_store  # there is no public way to torchrun's store

from data.stream import BatchStream
from data.trace import TraceWriter
from trainer.announce import announce
from trainer.batches import TrainBatches, open_stream
from trainer.build_model import ShardedModel
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.state import State
from trainer.clock import Clock, Due, LoopSchedule
from trainer.config.run_config import Config
from trainer.data_faults import DataFaults
from trainer.distributed.preemption import Stopped, StopRequest
from trainer.distributed.watchdog import HangWatchdog
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.training.due import DueEvaluations
from trainer.evaluation.training.next_window import NextWindows
from trainer.inputs import Inputs, check_inputs
from trainer.logging.profiler import profiled
from trainer.logging.train_log import TrainLog
from trainer.milestones import milestones_in_vain, with_pending_milestones
from trainer.open_run import Loaded, Opened, load_newest, open_run
from trainer.run.directory import RunDirectory
from trainer.run.records import CheckpointEvent, read_evaluations
from trainer.run.starts import End, StartLog
from trainer.step.guard import StepGuard
from trainer.step.verdict import StepResult, Verdict


@dataclass(frozen=True)
class Components:
    """Everything that the loop works with."""

    config: Config
    world: World
    run: RunDirectory
    clock: Clock
    schedule: LoopSchedule
    end: int
    """Samples at the end of the training."""
    batches: TrainBatches
    sharded: ShardedModel
    guard: StepGuard
    faults: DataFaults
    evaluations: DueEvaluations
    checkpoints: Checkpoints
    state: State
    """What the checkpoints of this start have in common; samples and sums are put in at each save."""
    starts: StartLog
    watchdog: HangWatchdog
    log: TrainLog

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train, or to gain. Collective: call on all ranks."""
        patience = self.config.train.patience
        if self.clock.samples >= self.end or patience is None:
            return self.clock.samples >= self.end
        in_vain = self.world.on_rank_zero(lambda: milestones_in_vain(read_evaluations(self.run.evaluations)))
        if in_vain >= patience:
            self.log.print(f"no task has improved for {in_vain} milestones (train.patience): the training ends here")
        return in_vain >= patience

    def account_for(self, steps: list[StepResult]) -> Verdict:
        """Accounts for steps in their order; returns the newest verdict. Collective: call on all ranks."""
        verdict = Verdict()
        for begin, output, verdict in steps:
            self.faults.handle(verdict, begin)
            if not verdict.unsound:
                self.log.update(output)
        return verdict

    def note_saved(self, state: State, seconds: float) -> None:
        """Records that a checkpoint is complete, `seconds` after its save began. Call it on rank 0."""
        self.starts.reached(state.samples)
        try:
            self.log.event(CheckpointEvent, state.samples, pinned=state.pinned, seconds=round(seconds, 3))
        except OSError as error:
            raise RunError(f"{self.run.events}: cannot be written ({error.strerror})") from error


@contextmanager
def start(config: Config, world: World, *, profile: bool = False) -> Iterator[Components]:
    """Context with the components of the run in `config.run.dir`. Collective: call on all ranks.

    Nothing is written before all input has been checked, on all ranks.
    """
    with ExitStack() as stack:
        watchdog = stack.enter_context(HangWatchdog(world, _get_default_store(), config.run.hang_seconds))
        inputs = check_inputs(config, world, watchdog, stack)
        loaded = load_newest(inputs, world, watchdog)

        watchdog.beat("start of the run's records")
        opened = open_run(inputs, loaded, world, stack)
        if inputs.records is not None and world.is_rank_zero:
            stack.callback(inputs.records.keep_last)  # once all records are written
        components = _components(inputs, loaded, opened, world, watchdog, stack)
        if profile:
            stack.enter_context(profiled(loaded.sharded.pipeline, inputs.run.profile, world, components.log))
        announce(inputs, loaded, components.log)

        with _noting_the_end(opened.starts, world):
            yield components


def _components(
    inputs: Inputs, loaded: Loaded, opened: Opened, world: World, watchdog: HangWatchdog, stack: ExitStack
) -> Components:
    """What has to be closed at the end goes onto `stack`. Collective: call on all ranks."""
    config = inputs.config
    run = inputs.run
    sharded = loaded.sharded
    request = StopRequest(config.checkpoint.grace_seconds, speaks=world.is_rank_zero)
    stop = stack.enter_context(request.listening())

    stored = _open_stream(inputs, world, loaded.clock.samples, opened.state)
    stack.callback(stored.close)
    batches = TrainBatches(stored, inputs.train, len(world.lanes(inputs.train.lanes)))

    guard = StepGuard(world, stop, watchdog, batches, config.checkpoint.every_minutes)
    balancer = loaded.balancer
    guard.watch(loaded.head, balancer)
    sharded.guard_with(guard)

    log = TrainLog(config, world, run, opened.state, loaded.clock.samples, inputs.end)
    stack.callback(log.close)
    log.watch_gates(loaded.head)
    log.watch_balance(balancer)
    log.watch_data(inputs.train.columns, stored.account)

    if loaded.state is not None:
        log.restore(loaded.state.log)

    evaluator = Evaluator(config, world, sharded, inputs.test) if inputs.test else None
    next_windows = NextWindows(config, world, sharded, inputs.train) if config.evaluate.next_window else None
    pending = world.on_rank_zero(lambda: with_pending_milestones(config, run, inputs.end))
    schedule = _schedule(pending, inputs.end, next_windows)
    return Components(
        config=config,
        world=world,
        run=run,
        clock=loaded.clock,
        schedule=schedule,
        end=inputs.end,
        batches=batches,
        sharded=sharded,
        guard=guard,
        faults=DataFaults(config, world, inputs.train, batches, log),
        evaluations=DueEvaluations(pending, world, run, log, schedule, evaluator, next_windows),
        checkpoints=loaded.checkpoints,
        state=opened.state,
        starts=opened.starts,
        watchdog=watchdog,
        log=log,
    )


def _open_stream(inputs: Inputs, world: World, samples: int, state: State) -> BatchStream:
    """The training batches after `samples`, recorded if run.trace is set. Collective: call on all ranks."""
    config = inputs.config

    def open_trace() -> TraceWriter | None:
        if not config.run.trace:
            return None
        return TraceWriter(inputs.run.trace_file(state.segment, world.rank), state.run)

    trace = world.raise_on_all_ranks(open_trace)
    return open_stream(inputs.train, world, samples, threads=config.data.threads, trace=trace)


def _schedule(config: Config, end: int, next_windows: NextWindows | None) -> LoopSchedule:
    batch = config.data.global_batch_size
    boundaries = next_windows.boundaries.values() if next_windows else ()
    milestones = [milestone.samples for milestone in config.evaluate.at_samples]
    return LoopSchedule(
        evaluation=Due(batch=batch, end=end, at=(*milestones, end)),
        window=Due(batch=batch, end=end, at=tuple(boundary for boundary in boundaries if boundary <= end)),
        log=Due(batch=batch, end=end, every=config.log_every(end)),
        checkpoint=Due(batch=batch, end=end, every=config.checkpoint.every_samples),
    )


@contextmanager
def _noting_the_end(starts: StartLog, world: World) -> Iterator[None]:
    """Context that records how this start ended; a process that is killed records nothing."""
    reason: End = "failed"
    try:
        yield
        reason = "finished"
    except Stopped:
        reason = "stopped"
        raise
    finally:
        if world.is_rank_zero:
            # A full disk has been reported already, or does not matter any more.
            with suppress(RunError):
                starts.finish(reason)
