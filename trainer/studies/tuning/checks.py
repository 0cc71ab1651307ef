"""What a search is asked for, and whether it can be done: all that is checked before anything is written."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from data.discovery.source import Source
from data.errors import DataError, ExpectedError
from data.manifest import Manifest
from trainer.config.load import changed_values, load_config, toml_text
from trainer.config.run_config import Config
from trainer.console import LateProgress
from trainer.datasets import check_columns, end_of_training, open_manifest, train_reading
from trainer.errors import ConfigError
from trainer.studies.folder import DATABASE, check_folder
from trainer.studies.tuning.space import Space, changes_of

MOST_ENDS = 1_000
"""Points that are checked before a search begins, at some 30 ms each; so many trainings are no small search either."""
RANGE_TRIALS = 20
"""Trials where nothing says how many, and a range has no last one."""


@dataclass(frozen=True)
class Search:
    """What `adatt tune` is asked for."""

    config: str
    """Path of the config file."""
    changes: tuple[str, ...]
    """To it, as `--set` takes them."""
    space: Space
    validation: Source
    """The dataset that trials are judged on: one URI, and which partitions of it."""
    trials: int | None = None
    """None: every point of a grid; `RANGE_TRIALS` where there are ranges."""
    prune: bool = True
    """false: every trial is trained to its end."""

    @property
    def num_trials(self) -> int:
        """How many there are to be."""
        points = self.space.num_points
        wanted = RANGE_TRIALS if self.trials is None and points is None else self.trials or points or 0
        return min(wanted, points or wanted)

    @property
    def trial_changes(self) -> tuple[str, ...]:
        """Of every trial, besides its own values."""
        (uri,) = self.validation.uris
        where = self.validation.where
        partitions = [] if where is None else [f"data.test_where={toml_text(where)}"]
        return (*self.changes, f"data.test={toml_text(uri)}", *partitions)


@dataclass(frozen=True)
class CheckedSearch:
    """A search that can begin."""

    search: Search
    config: Config
    """Of its trials, but for their own values."""
    samples: int
    """That each trains."""
    marks: dict[str, str]
    """By which a later start knows that it is the same search."""


def checked(search: Search, out: Path) -> CheckedSearch:
    """Raises ExpectedError, in one line, for whatever is wrong with it; writes nothing."""
    if search.trials is not None and search.trials < 1:
        raise ConfigError(f"--trials {search.trials}: a search needs at least one")
    check_folder(out, "search", {DATABASE})
    config = load_config(search.config, list(search.trial_changes))
    test = _test_of(search)
    _check_validation(search, config, test)
    if config.checkpoint.dir is not None:
        raise ConfigError(
            f"checkpoint.dir = {config.checkpoint.dir!r}: trials keep their checkpoints in their own folders; search "
            "with a config without that key"
        )
    _check_space(search)

    train = open_manifest(config.data.train_source)
    check_columns(train, config)
    samples = end_of_training(config, train_reading(config, train))
    validation = _open_validation(search, config)
    _refuse_same(validation, train, test)
    marks = {
        "validation set": validation.fingerprint,
        "training data": train.fingerprint,
        "--grid or --range": repr(search.space),
        "choice of pruning": str(search.prune),
        # As written: a later version of the program may have keys, or defaults, that this one has not.
        "config": _digest(changed_values(search.config, search.trial_changes)),
    }
    return CheckedSearch(search, config, samples, marks)


def _check_space(search: Search) -> None:
    """Raises ConfigError if the config refuses a point of the grid, or an end of a range."""
    number = search.space.num_ends
    if number > MOST_ENDS:
        raise ConfigError(
            f"--grid: {number:,} combinations of values and ends of ranges are more than {MOST_ENDS:,}; name fewer "
            "values, or a --range in place of some"
        )

    with LateProgress("checking the values") as progress:
        for index, values in enumerate(search.space.ends()):
            changes = changes_of(values)
            try:
                load_config(search.config, [*search.trial_changes, *changes])
            except ExpectedError as error:
                raise ConfigError(f"a trial with {' '.join(changes)} cannot be: {error}") from error
            progress(index + 1, number)


def _test_of(search: Search) -> Source | None:
    """The config's own test set, if it has one."""
    data = changed_values(search.config, search.changes).get("data")
    if not isinstance(data, dict) or "test" not in data:
        return None
    return load_config(search.config, list(search.changes)).data.test_source


def _check_validation(search: Search, config: Config, test: Source | None) -> None:
    """Raises ConfigError if the name says already that trials may not be judged on it."""
    named = search.validation
    if config.data.test_where != named.where:
        raise ConfigError(
            f"data.test_where = {config.data.test_where!r} is for the config's test set; say with --where which "
            "partitions of --validation are meant"
        )
    if named == test:
        raise _same_as_test(named)
    if named == replace(config.data.train_source, complete=None):
        raise _same_as_train(named)


def _refuse_same(validation: Manifest, train: Manifest, test: Source | None) -> None:
    """Raises ConfigError if it is one of them under another name; the test set need not be there."""
    if validation.fingerprint == train.fingerprint:
        raise _same_as_train(validation.uri)
    with suppress(DataError):
        if test is not None and open_manifest(test).fingerprint == validation.fingerprint:
            raise _same_as_test(validation.uri)


def _same_as_test(named: object) -> ConfigError:
    return ConfigError(
        f"--validation {named} is data.test, the config's own test set: the best of many trials is the best on it by "
        "luck too, so its figures there would be too good; name rows that are in neither data.train nor data.test"
    )


def _same_as_train(named: object) -> ConfigError:
    return ConfigError(
        f"--validation {named} is data.train: what does best on the rows that it was trained on says nothing of "
        "others; name rows that are in neither data.train nor data.test"
    )


def _open_validation(search: Search, config: Config) -> Manifest:
    try:
        manifest = open_manifest(search.validation)
        check_columns(manifest, config, trains=False)
    except ExpectedError as error:
        raise ConfigError(f"--validation: {error}") from error
    return manifest


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
