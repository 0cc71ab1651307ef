"""A study: one config, what varies between its variants, and the seeds. Read from DIR/study.toml.

study.toml ──► variants × seeds ──► trainings (trainings.py) ──► results.py ──► pages.py
"""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from data.settings import Count, Settings
from data.storage.parsing import parse_toml
from data.storage.paths import local_path, path_of
from trainer.config.load import load_config, toml_text
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
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_as_tuple)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Variant(Settings):
    """One line of the study's table."""

    name: str = Field(pattern=r"^\w[\w.=+ -]*$", max_length=100)
    set: Changes = Field(default={})
    equal_flops_to: str | None = None
    """Variant whose training FLOPs this one's head is given, by the width of its levels."""
    set_short: Changes = Field(default={})
    """Further changes in the short form."""


class DatasetSource(Settings):
    """How to come by the data."""

    folder: Annotated[str, AfterValidator(lambda text: str(local_path(text)))]
    """Where it is to be, from the working directory."""
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
    values: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    samples: Count
    """Trained in each trial."""
    seed: int = 1
    set: Changes = Field(default={})

    @property
    def num_samples(self) -> int:
        """Of all trials of a variant."""
        return self.samples * math.prod(map(len, self.values.values()))


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
    metric: str = Field(default="loss", pattern="^(loss|auc|end)$")
    """loss: NE or MSE, relative to the baseline; auc: AUC as it is; end: NE or MSE of each variant at its own end, not
    compared, so that variants may differ in tasks and samples."""
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
    path = path_of("DIR", folder) / FILE
    values = _read_toml(path)
    shared = values.get("variants_from")
    if isinstance(shared, str):
        values["variants"] = _variants(path.parent / shared) + (_variants(path) if "variants" in values else [])

    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{path}: {key}: {problem['msg'].removeprefix('Value error, ')}") from error

    _check(study, path)
    return study


def _variants(path: Path) -> list[Any]:
    """Those that a file names."""
    variants = _read_toml(path).get("variants")
    if not isinstance(variants, list):
        raise ConfigError(f"{path}: no [[variants]]")
    return variants


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = f"; a study is a folder with a {FILE} (docs/study.md)" if path.name == FILE else ""
        raise ConfigError(f"{path}: no such file{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _check(study: Study, path: Path) -> None:
    names = [variant.name for variant in study.variants]
    folders = [_name(name, 0) for name in names]
    twice = next((name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two variants are called {twice!r}, with _ for each blank as in their runs' folders")
    if len(set(study.seeds)) < len(study.seeds) or not study.seeds:
        raise ConfigError(f"{path}: seeds = {list(study.seeds)} must be different numbers, at least one")

    named = {"baseline": [study.baseline], "rivals": study.rivals}
    named["paper.values"] = [name for table in study.paper for name in table.values]
    named["equal_flops_to"] = [variant.equal_flops_to for variant in study.variants if variant.equal_flops_to]
    for key, wanted in named.items():
        for name in wanted:
            if name not in names:
                raise ConfigError(f"{path}: {key} = {name!r} is no variant; choose from {', '.join(names)}")

    widened = [variant.name for variant in study.variants if variant.equal_flops_to]
    chained = next((name for name in named["equal_flops_to"] if name in widened), None)
    if chained is not None:
        raise ConfigError(f"{path}: equal_flops_to = {chained!r} has an equal_flops_to itself; name one that has none")


class Expanded:
    """A study with its config loaded once for each variant: every change checked, every width found."""

    def __init__(self, study: Study, folder: str, *, short: bool, changes: Sequence[str], seeds: Sequence[int]) -> None:
        """`changes` are the user's own, `--set` of the command; `seeds` instead of the study's, if there are any."""
        self.study = study
        self.short = short
        self.seeds = tuple(seeds) or (study.short.seeds if short else study.seeds)
        self.config_file = str(path_of("DIR", folder) / study.config)
        self.chosen: dict[str, dict[str, str]] = {}
        """Hyper-parameters by variant, once the grid has been searched."""
        self._changes = {variant.name: [*self._changes_of(variant), *changes] for variant in study.variants}
        self._refuse(changes)
        for variant in study.variants:
            self._widen(variant)
        self.configs = {variant.name: self._load(variant.name) for variant in study.variants}
        self._check_tasks()

    @property
    def dataset(self) -> str:
        """Its folder."""
        return dataset_folder(self.study, short=self.short)

    def choose(self, variant: str, values: dict[str, str]) -> None:
        """Gives a variant's trainings these values of hyper-parameters."""
        self.chosen[variant] = values
        self.configs[variant] = self._load(variant)

    def trainings(self) -> list[Training]:
        """All runs: every variant with the first seed, then with the next."""
        return [self._training(name, seed) for seed in self.seeds for name in self.configs]

    def trainings_of(self, variant: str) -> list[Training]:
        """The variant's runs, by seed."""
        return [self._training(variant, seed) for seed in self.seeds]

    def names(self, variant: str) -> list[str]:
        """Of the variant's trainings."""
        return [_name(variant, seed) for seed in self.seeds]

    def changes(self, variant: str) -> list[str]:
        """What makes the study's config that of a variant."""
        return [*self._changes[variant], *(f"{key}={value}" for key, value in self.chosen.get(variant, {}).items())]

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
        config = load_config(self.config_file, self.changes(name))
        if not isinstance(config.train.samples, int):
            raise ConfigError(f"{self.config_file}: train.samples must be a number in a study, to know how far it is")
        if config.checkpoint.dir is not None:
            raise ConfigError(f"{self.config_file}: checkpoint.dir would be the same for all runs; leave it out")
        return config

    def _widen(self, variant: Variant) -> None:
        if variant.equal_flops_to is not None:
            head = at_equal_flops(self._load(variant.name), self._load(variant.equal_flops_to))
            self._changes[variant.name] += set_options({"model.levels": head.levels})

    def _refuse(self, changes: Sequence[str]) -> None:
        """Raises ConfigError if a change of the user's would have no effect."""
        keys = [change.partition("=")[0].strip() for change in changes]
        grid = self.study.grid.values if self.study.grid and not self.short else {}
        why = {"run.dir": "runs are in --out", "run.seed": "use --seeds", **dict.fromkeys(grid, "the grid chooses it")}
        useless = next((key for key in keys if key in why), None)
        if useless is not None:
            raise ConfigError(f"--set {useless}=… has no effect in this study; {why[useless]}")

    def _check_tasks(self) -> None:
        """Raises ConfigError if what variants are evaluated on cannot be compared, where they are to be."""
        if self.study.metric == "end":
            return
        baseline = self.configs[self.study.baseline]
        for name, config in self.configs.items():
            if config.evaluated_tasks != baseline.evaluated_tasks:
                raise ConfigError(f"{self.config_file}: variant {name!r} is not evaluated on the tasks of the baseline")
        kinds = {task.kind for task in baseline.tasks if task.name in baseline.evaluated_tasks}
        if self.study.metric == "auc" and "binary" not in kinds:
            raise ConfigError(f'{self.config_file}: metric = "auc" takes a binary task; leave it out for MSE')


def dataset_folder(study: Study, *, short: bool) -> str:
    """Where the study's data is."""
    return f"{study.dataset.folder}-short" if short and study.dataset.make_short else study.dataset.folder


def _name(variant: str, seed: int) -> str:
    return f"{variant}-{seed}".replace(" ", "_")


def set_options(changes: Mapping[str, Any]) -> list[str]:
    """Values by key path as arguments of `--set`."""
    return [f"{key}={inline_toml(value)}" for key, value in changes.items()]


def inline_toml(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {inline_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(inline_toml, value)) + "]"
    return toml_text(value) if isinstance(value, str) else str(value).lower()  # numbers, true, dates


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else toml_text(key)
