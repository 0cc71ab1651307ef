"""Evaluations that are due while a run is trained: of the test set, and of windows that are trained next."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from trainer.clock import LoopSchedule
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.training.next_window import NextWindows
from trainer.logging.train_log import TrainLog
from trainer.run.directory import RunDirectory
from trainer.run.evaluations import needs_evaluation, needs_window

Between = Callable[[], None]
"""Called after every batch; an exception of it ends the evaluation."""


@dataclass(frozen=True)
class DueEvaluations:
    """Makes them, unless an earlier start has done so. Every method is collective: call it on all ranks."""

    config: Config
    """With the milestones that are still to be evaluated."""
    world: World
    run: RunDirectory
    log: TrainLog
    schedule: LoopSchedule
    evaluator: Evaluator | None
    """On the test set, if there is one."""
    next_windows: NextWindows | None
    """With `evaluate.next_window`."""

    def make(self, samples: int, save: Callable[[], None], between: Between) -> None:
        """Makes those that are due after `samples`. `save` is called before the test set is evaluated."""
        if self.schedule.evaluation(samples):
            self._evaluate_test_set(samples, save, between)
            self.log.begin_conflicts(samples)  # whether it was made now or before a resume
        if self.next_windows is not None and self.schedule.window(samples):
            self._evaluate_windows(self.next_windows, samples, between)

    def _evaluate_test_set(self, samples: int, save: Callable[[], None], between: Between) -> None:
        boundary = self.schedule.evaluation.boundary
        milestones = self.config.evaluate.at_samples
        reached = [milestone.text for milestone in milestones if boundary(milestone.samples) == samples]
        needed = partial(needs_evaluation, self.run, samples, list(reached) or [None], self.config.evaluated_tasks)
        if not self.world.on_rank_zero(needed):
            return

        save()
        self.log.write_conflicts(samples)
        if self.evaluator is not None:
            with self.log.pause():
                evaluation = self.evaluator.run(samples, between)
            self.log.write_evaluation(evaluation, reached)

    def _evaluate_windows(self, windows: NextWindows, samples: int, between: Between) -> None:
        for window in windows.at(samples):
            needed = partial(needs_window, self.run, samples, window, self.config.evaluated_tasks)
            if self.world.on_rank_zero(needed):
                with self.log.pause():
                    records = windows.evaluate(window, samples, between)
                self.log.write_window(records)
