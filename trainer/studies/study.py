"""A study: one config, what varies between its variants, and the seeds. Read from DIR/study.toml.

study.toml ──► variants × seeds ──► trainings (trainings.py) ──► results.py ──► pages.py
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from data.settings import Count, Settings
from data.storage.parsing import parse_toml
from data.storage.paths import full_path
from trainer.config.load import load_config
from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.studies.equal_flops import at_equal_flops
from trainer.studies.trainings import Training

FILE = "study.toml"
Changes = dict[str, Any]
"""Values by key path, as `--set` has them: {"train.samples" = "3.5M"}."""


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Numbers = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_as_tuple)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Variant(Settings):
    """One line of the study's table."""

    name: str = Field(pattern=r"^[\w.=+ -]+$")
    set: Changes = Field(default={})
    equal_flops_to: str | None = None
    """Variant whose training FLOPs this one's head is given, by the width of its levels."""
    set_short: Changes = Field(default={})
    """Further changes in the short form."""


class DatasetSource(Settings):
    """How to come by the data."""

    folder: str
    """Where it is to be."""
    make: Texts = ()
    """Arguments of `adatt` that write it, where that takes no files of others."""
    make_short: Texts = ()
    """The same for the short form, into `folder`-short."""
    need: str | None = None
    """The command that a user has to run for it, with the files of others."""


class Grid(Settings):
    """Hyper-parameters of each variant, chosen on validation rows before the study is run; the same trials for each."""

    validation: str = "validation"
    """Folder in that of the dataset; no row of it is in the test set."""
    values: dict[str, list[Any]]
    samples: Count
    """Trained in each trial."""
    seed: int = 1
    set: Changes = Field(default={})


class ShortForm(Settings):
    """What a run of the whole study in a minute changes; its grid is left out."""

    seeds: Seeds = (17, 18)
    set: Changes = Field(default={})


class PaperTable(Settings):
    """A table of the paper: a task's column, a variant's line."""

    title: str
    task: str
    columns: Texts
    values: dict[str, Numbers]
    """By variant."""


class Study(Settings):
    """A study."""

    title: str
    about: str = ""
    """A paragraph for the page."""
    config: str
    """Config file of all runs, from the study's folder."""
    dataset: DatasetSource
    seeds: Seeds
    baseline: str
    """Variant with which the others are compared."""
    rivals: Texts = ()
    """Variants with which all are compared at the end as well."""
    metric: str = Field(default="loss", pattern="^(loss|auc)$")
    """loss: NE or MSE, relative to the baseline; auc: AUC as it is."""
    fusion: bool = False
    """Whether the page shows the mean fusion weights of every variant, as in Figure 3."""
    set: Changes = Field(default={})
    variants_from: str | None = None
    """File with variants that several studies have, from the study's folder; before those named here."""
    variants: list[Variant] = Field(min_length=1)
    grid: Grid | None = None
    short: ShortForm = ShortForm()
    paper: list[PaperTable] = Field(default=[])


def read_study(folder: str) -> Study:
    """The study in a folder; ConfigError, in one line, for anything wrong in it."""
    path = Path(full_path(folder)) / FILE
    values = _read_toml(path)
    shared = values.get("variants_from")
    if isinstance(shared, str):
        values["variants"] = [*_read_toml(path.parent / shared).get("variants", []), *values.get("variants", [])]

    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{path}: {key}: {problem['msg'].removeprefix('Value error, ')}") from error

    _check(study, path)
    return study


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; a study is a folder with a {FILE} (docs/study.md)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _check(study: Study, path: Path) -> None:
    names = [variant.name for variant in study.variants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two variants are called {twice!r}")
    if len(set(study.seeds)) < len(study.seeds) or not study.seeds:
        raise ConfigError(f"{path}: seeds = {list(study.seeds)} must be different numbers, at least one")

    named = {"baseline": [study.baseline], "rivals": study.rivals}
    named["equal_flops_to"] = [variant.equal_flops_to for variant in study.variants if variant.equal_flops_to]
    for key, wanted in named.items():
        for name in wanted:
            if name not in names:
                raise ConfigError(f"{path}: {key} = {name!r} is no variant; choose from {', '.join(names)}")


class Expanded:
    """A study with its config loaded once for each variant: every change checked, every width found."""

    def __init__(self, study: Study, folder: str, *, short: bool, changes: Sequence[str], seeds: Sequence[int]) -> None:
        """`changes` are the user's own, `--set` of the command; `seeds` instead of the study's, if there are any."""
        self.study = study
        self.short = short
        self.seeds = tuple(seeds) or (study.short.seeds if short else study.seeds)
        self.config_file = str(full_path(folder) / study.config)
        self._of_user = list(changes)
        self._own = {variant.name: self._changes_of(variant) for variant in study.variants}
        by_name = {variant.name: variant for variant in study.variants}
        self.configs = {name: self._widened(by_name[name], self._load(name)) for name in self._own}
        self.chosen: dict[str, dict[str, str]] = {}
        """Hyper-parameters by variant, once the grid has been searched."""

    @property
    def dataset(self) -> str:
        """Its folder."""
        return dataset_folder(self.study, short=self.short)

    def choose(self, variant: str, values: dict[str, str]) -> None:
        """Gives a variant's trainings these values of hyper-parameters."""
        self.chosen[variant] = values

    def trainings(self) -> list[Training]:
        """All runs: every variant with the first seed, then with the next."""
        return [self._training(name, seed) for seed in self.seeds for name in self._own]

    def names(self, variant: str) -> list[str]:
        """Of the variant's trainings."""
        return [_name(variant, seed) for seed in self.seeds]

    def changes(self, variant: str) -> list[str]:
        """What makes the study's config that of a variant."""
        chosen = [f"{key}={value}" for key, value in self.chosen.get(variant, {}).items()]
        return [*self._own[variant], *chosen, *self._of_user]

    def _training(self, variant: str, seed: int) -> Training:
        samples = int(self.configs[variant].train.samples)
        return Training(_name(variant, seed), self.config_file, (*self.changes(variant), f"run.seed={seed}"), samples)

    def _changes_of(self, variant: Variant) -> list[str]:
        data = {"data.train": f"{self.dataset}/train", "data.test": f"{self.dataset}/test"}
        parts: list[Mapping[str, Any]] = [data, self.study.set, variant.set]
        if self.short:
            parts += [self.study.short.set, variant.set_short]
        return [option for part in parts for option in set_options(part)]

    def _load(self, name: str) -> Config:
        config = load_config(self.config_file, [*self._own[name], *self._of_user])
        if not isinstance(config.train.samples, int):
            raise ConfigError(f"{self.config_file}: train.samples must be a number in a study, to know how far it is")
        if config.checkpoint.dir is not None:
            raise ConfigError(f"{self.config_file}: checkpoint.dir would be the same for all runs; leave it out")
        return config

    def _widened(self, variant: Variant, config: Config) -> Config:
        if variant.equal_flops_to is None:
            return config
        head = at_equal_flops(config, self._load(variant.equal_flops_to))
        levels = [list(level) for level in head.levels]
        self._own[variant.name].append(f"model.levels={json.dumps(levels)}")
        return config.model_copy(update={"model": head})


def dataset_folder(study: Study, *, short: bool) -> str:
    """Where the study's data is."""
    return f"{study.dataset.folder}-short" if short and study.dataset.make_short else study.dataset.folder


def _name(variant: str, seed: int) -> str:
    return f"{variant}-{seed}".replace(" ", "_")


def set_options(changes: Mapping[str, Any]) -> list[str]:
    """Values by key path as arguments of `--set`."""
    return [f"{key}={_inline(value)}" for key, value in changes.items()]


def _inline(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_inline(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)
