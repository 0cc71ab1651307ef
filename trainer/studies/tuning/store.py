"""The trials of a search in OUT/optuna.db, which Optuna keeps, and the values that it proposes for new ones."""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, GridSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from trainer.errors import ConfigError, RunError
from trainer.studies.folder import DATABASE
from trainer.studies.tuning.space import Space, Values
from trainer.studies.tuning.trials import Metrics, State, Trial

STARTUP_TRIALS = 4
"""So many are trained to their end before any is pruned: a median of fewer says little."""
_NAME = "tune"
_ERRORS = (StorageInternalError, SQLAlchemyError, sqlite3.Error)
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class _Grid(GridSampler):
    """Every point once, in an order drawn from the seed."""

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Nothing: Optuna's own would end a loop of Optuna's, and fail in another."""


class TrialStore:
    """The study of Optuna behind a search; use `opened_store`."""

    def __init__(self, study: optuna.Study, space: Space, seed: int) -> None:
        self._study, self._space, self._seed = study, space, seed

    def check(self, marks: Mapping[str, str], out: Path) -> None:
        """Raises ConfigError if it was begun with other marks; a new one gets them."""
        known = self._study.user_attrs.get("marks")
        if known is None:
            self._study.set_user_attr("marks", dict(marks))
            return
        for what, mark in marks.items():
            if known.get(what) != mark:
                raise ConfigError(
                    f"--out {str(out)!r} holds a search with another {what}; name another folder, or remove this one "
                    "to begin anew"
                )

    @property
    def num_begun(self) -> int:
        """How many trials there are, ended or not."""
        return len(self._study.get_trials(deepcopy=False))

    @property
    def best(self) -> float | None:
        """The lowest objective so far."""
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return min((trial.value for trial in complete if trial.value is not None), default=None)

    def unended(self) -> list[optuna.Trial]:
        """Those that an earlier start has left behind."""
        left = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [optuna.Trial(self._study, trial._trial_id) for trial in left]

    def new(self) -> optuna.Trial:
        """Its values depend on the seed, its number and the trials that have ended, however often the search began."""
        self._study.sampler = self._sampler(self.num_begun)
        return self._study.ask()

    def values_of(self, trial: optuna.Trial) -> Values:
        """The trial's value of each key."""
        return self._space.suggest(trial)

    def tell(self, trial: optuna.Trial, state: TrialState, objective: float | None, notes: Mapping[str, Any]) -> None:
        """Records the end of a trial; `notes`: metrics, samples and reason of `Trial`."""
        for name, value in notes.items():
            trial.set_user_attr(name, value)
        self._study.tell(trial, objective, state)

    def ended(self, folder_of: Mapping[int, str]) -> list[Trial]:
        """All that have ended; `folder_of` their numbers: their runs."""
        trials = self._study.get_trials(deepcopy=False, states=tuple(_STATES))
        return [self._as_trial(trial, folder_of[trial.number]) for trial in trials]

    def _as_trial(self, trial: FrozenTrial, run: str) -> Trial:
        state = _STATES[trial.state]
        metrics: Metrics = trial.user_attrs.get("metrics", {})
        return Trial(
            number=trial.number,
            state=state,
            values={part.key: part.text(trial.params[part.key]) for part in self._space.parts},
            objective=trial.value if state == "complete" else None,
            metrics=metrics,
            samples=trial.user_attrs.get("samples", 0),
            run=run,
            reason=trial.user_attrs.get("reason", ""),
        )

    def _sampler(self, number: int) -> BaseSampler:
        if not self._space.ranges:
            return _Grid({choice.key: choice.values for choice in self._space.choices}, _seed(self._seed))
        return TPESampler(seed=_seed(self._seed, number))


@contextmanager
def opened_store(folder: Path, space: Space, seed: int, *, prune: bool) -> Iterator[TrialStore]:
    """Context with the store in a folder, which is made where there is none; ConfigError if the file is damaged."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what there is to tell, the program tells
    path = folder / DATABASE
    try:
        storage = RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": lambda: _connect(path)})
        pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS) if prune else optuna.pruners.NopPruner()
        study = optuna.create_study(storage=storage, study_name=_NAME, pruner=pruner, load_if_exists=True)
    except (*_ERRORS, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be used ({_reason(error)}); restore it, or name another folder") from error

    try:
        yield TrialStore(study, space, seed)
    except _ERRORS as error:
        raise RunError(f"{path}: cannot be written ({_reason(error)}); start again to go on") from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _connect(path: Path) -> sqlite3.Connection:
    """Whatever characters the path holds, which a URI would not take."""
    return sqlite3.connect(path, timeout=60, check_same_thread=False)


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4])


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", None) or cause).partition("\n")[0]
