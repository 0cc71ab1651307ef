"""`adatt tune`: searches the values of config keys with which trainings do best on a validation set.

Optuna proposes and judges; each trial is an ordinary run in OUT/runs, trained by `trainer.studies.trainings`:

    checked(search)      config, values, datasets and folder; nothing is written before
    TrialStore           OUT/optuna.db: what was proposed, how it went
    ─► TrainingProcess   a trial under way; its evaluations go to the store as they appear
    ─► Tuning            the trials, best first

A search that is stopped or killed goes on where it was when it is started again.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from trainer.config.load import load_config
from trainer.data_faults import NOT_FINITE
from trainer.distributed.preemption import Stopped
from trainer.errors import ConfigError, RunError
from trainer.process.signals import Interrupted
from trainer.run.directory import RunDirectory
from trainer.run.records import read_evaluations
from trainer.studies.folder import held_folder
from trainer.studies.trainings import POLL_SECONDS, Training, TrainingProcess, stop, use_threads
from trainer.studies.tuning.checks import CheckedSearch, Search, checked
from trainer.studies.tuning.space import changes_of
from trainer.studies.tuning.store import TrialStore, opened_store
from trainer.studies.tuning.trials import Metrics, Trial, best_first, metrics_by_samples, objective_of


@dataclass(frozen=True)
class Status:
    """How far a search is."""

    ended: int
    trials: int
    samples: int
    """Trained in all; a trial that was pruned or failed counts as a whole one."""
    all_samples: int
    best: float | None
    """Objective of the best trial so far."""


Progress = Callable[[Status], None]


@dataclass(frozen=True)
class Tuning:
    """The end of a search."""

    trials: list[Trial]
    """Best first."""

    @property
    def best(self) -> Trial:
        """Raises RunError if no trial was trained to its end with metrics."""
        first = self.trials[0]
        if first.state != "complete":
            raise RunError(
                f"none of {len(self.trials)} trials was trained to its end: trial {first.number} {first.state} "
                f"{first.reason}".rstrip()
            )
        return first


def tune(search: Search, out: Path, parallel: int, threads: int, progress: Progress) -> Tuning:
    """Runs the trials that have not ended yet, `parallel` at a time with `threads` each.

    Raises ExpectedError before anything is written if the search cannot be done; Stopped when it is asked to end, after
    all trainings have saved; RunError if a training cannot go on for another reason than its values. Started again, it
    goes on.
    """
    (tuning,) = tune_all({out: search}, parallel, threads, lambda statuses: progress(*statuses))
    return tuning


def tune_all(
    searches: Mapping[Path, Search], parallel: int, threads: int, progress: Callable[[Sequence[Status]], None]
) -> list[Tuning]:
    """Several searches, each in its OUT, as `tune` makes one: `parallel` is how many trials of all run at a time."""
    ready = [checked(search, out) for out, search in searches.items()]
    with ExitStack() as stack:
        all_trials = [_opened(one, out, stack) for one, out in zip(ready, searches, strict=True)]
        use_threads(threads)
        try:
            _run(all_trials, parallel, progress)
        except Interrupted as asked:
            raise Stopped from asked
        finally:
            stop([one.process for trials in all_trials for one in trials.running])
        return [trials.result() for trials in all_trials]


def _opened(ready: CheckedSearch, out: Path, stack: ExitStack) -> "_Trials":
    stack.enter_context(held_folder(out, "search"))
    search = ready.search
    store = stack.enter_context(opened_store(out, search.space, ready.config.run.seed, prune=search.prune))
    store.check(ready.marks, out)
    return _Trials(ready, store, out)


def _run(searches: Sequence["_Trials"], parallel: int, progress: Callable[[Sequence[Status]], None]) -> None:
    """Until all trials have ended; those of the first search begin first."""
    while True:
        for trials in searches:
            while sum(len(each.running) for each in searches) < parallel and trials.begin_next():
                pass
        if not any(trials.running for trials in searches):
            return
        time.sleep(POLL_SECONDS)
        for trials in searches:
            trials.look()
        progress([trials.status() for trials in searches])


@dataclass
class _Running:
    """A trial under way."""

    trial: optuna.Trial
    process: TrainingProcess
    reported: set[int] = field(default_factory=set)
    """Samples at which Optuna knows its objective."""
    is_pruned: bool = False
    evaluations_bytes: int = 0
    """Of its records, when they were last read."""


class _Trials:
    """The trials of a search: begun, watched and ended."""

    def __init__(self, ready: CheckedSearch, store: TrialStore, out: Path) -> None:
        self.running: list[_Running] = []
        self._ready, self._store, self._out = ready, store, out
        self._search = ready.search
        self._interrupted = store.unended()

    def begin_next(self) -> bool:
        """Begins a trial, or goes on with one; false: there is none left."""
        if self._interrupted:
            trial = self._interrupted.pop(0)
        elif self._store.num_begun < self._search.num_trials:
            trial = self._store.new()
        else:
            return False
        self._start(trial)
        return True

    def look(self) -> None:
        """At the trials under way: what they have evaluated, and which have ended."""
        for one in list(self.running):
            alive = one.process.is_alive
            self._report(one)
            if not alive:
                self.running.remove(one)
                self._end(one)

    def status(self) -> Status:
        """How far it is."""
        ended = self._store.num_begun - len(self.running) - len(self._interrupted)
        trained = ended * self._ready.samples + sum(one.process.samples for one in self.running)
        all_samples = self._search.num_trials * self._ready.samples
        return Status(ended, self._search.num_trials, trained, all_samples, self._store.best)

    def result(self) -> Tuning:
        """All that have ended."""
        folders = {number: str(self._training(number).folder(self._out)) for number in range(self._store.num_begun)}
        return Tuning(best_first(self._store.ended(folders)))

    def _start(self, trial: optuna.Trial) -> None:
        changes = changes_of(self._store.values_of(trial))
        training = self._training(trial.number, changes)
        try:
            load_config(training.config, list(training.changes))
        except ConfigError as error:  # between the ends of a range, which the config takes
            self._store.tell(trial, TrialState.FAIL, None, {"reason": str(error)})
            return
        self.running.append(_Running(trial, TrainingProcess(training, self._out)))

    def _training(self, number: int, changes: list[str] | None = None) -> Training:
        return Training(
            name=f"trial-{number:03d}",
            config=self._search.config,
            changes=(*self._search.trial_changes, *(changes or [])),
            samples=self._ready.samples,
        )

    def _report(self, one: _Running) -> None:
        """Tells Optuna what has been evaluated since; a trial that is behind the others is asked to stop."""
        size = _size(self._run(one).evaluations)
        if size == one.evaluations_bytes:
            return
        one.evaluations_bytes = size

        end = self._ready.config.train.samples
        end = end if isinstance(end, int) else self._ready.samples
        early = {samples: objective_of(metrics) for samples, metrics in self._metrics(one).items() if samples < end}
        new = early.keys() - one.reported
        for samples in sorted(new):
            one.trial.report(early[samples], samples)
        one.reported |= new

        if new and not one.is_pruned and one.trial.should_prune():
            one.is_pruned = True
            one.process.ask_to_stop()

    def _end(self, one: _Running) -> None:
        """Records how it went. Raises RunError, or ConfigError, if that says nothing of its values."""
        metrics = self._metrics(one)
        samples = max(metrics, default=0)
        last = metrics.get(samples, {})
        notes: dict[str, Any] = {"metrics": _finite(last), "samples": samples}
        if one.is_pruned and one.process.exit_code != 0:
            return self._store.tell(one.trial, TrialState.PRUNED, None, notes)

        failed = one.process.finish()
        if failed and NOT_FINITE not in failed[0]:
            raise RunError(f"{failed[0]}; once that is mended, start again to go on")
        objective = objective_of(last)
        if not failed and math.isfinite(objective):
            return self._store.tell(one.trial, TrialState.COMPLETE, objective, notes)

        reason = failed[0].partition(": ")[2] if failed else _undefined(last)
        return self._store.tell(one.trial, TrialState.FAIL, None, {**notes, "reason": reason})

    def _metrics(self, one: _Running) -> dict[int, Metrics]:
        return metrics_by_samples(read_evaluations(self._run(one).evaluations), self._ready.config.evaluated_tasks)

    def _run(self, one: _Running) -> RunDirectory:
        return RunDirectory(one.process.training.folder(self._out))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _finite(metrics: Metrics) -> Metrics:
    """Without what is not defined, for which JSON has no number."""
    return {
        task: {name: value for name, value in of_task.items() if math.isfinite(value)}
        for task, of_task in metrics.items()
    }


def _undefined(metrics: Metrics) -> str:
    for task, of_task in metrics.items():
        for name, value in of_task.items():
            if not (math.isfinite(value) and value > 0):
                return f"{name.upper()} of task {task!r} is {value:g} on the validation set, which has no logarithm"
    return "it left no evaluation of all tasks"
