"""Hyper-parameters of each variant, by the same grid on validation rows, before a study is run."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from data.discovery.source import source_of
from trainer.studies.study import Expanded, Grid, inline_toml, set_options
from trainer.studies.tuning.checks import Search
from trainer.studies.tuning.search import Status, tune_all
from trainer.studies.tuning.space import parse_space

Progress = Callable[[int, int, int], None]
"""Is told, now and then, how many trials of how many have ended, and how many samples have been trained in all."""


def choose_on_grid(study: Expanded, grid: Grid, out: Path, parallel: int, threads: int, progress: Progress) -> None:
    """Searches the grid for every variant, in OUT/tuning/VARIANT, and gives each its best values."""
    options = [f"{key}={','.join(map(inline_toml, values))}" for key, values in grid.values.items()]
    space = parse_space(options, [])
    validation = source_of(f"{study.dataset}/{grid.validation}")
    searches: dict[Path, Search] = {}

    for variant in study.configs:
        changes = (*study.changes(variant), *_budget(grid), f"run.seed={grid.seed}")
        searches[out / "tuning" / variant] = Search(study.config_file, changes, space, validation, prune=False)

    found = tune_all(searches, parallel, threads, partial(_tell, progress))
    for variant, tuning in zip(study.configs, found, strict=True):
        study.choose(variant, tuning.best.values)


def _tell(progress: Progress, statuses: Sequence[Status]) -> None:
    sums = [sum(each) for each in zip(*((one.ended, one.trials, one.samples) for one in statuses), strict=True)]
    progress(*sums)


def _budget(grid: Grid) -> list[str]:
    """Of a trial: a short training, evaluated at its end alone."""
    return [f"train.samples={grid.samples}", "evaluate.at_samples=[]", *set_options(grid.set)]
