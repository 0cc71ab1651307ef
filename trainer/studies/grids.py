"""Hyper-parameters of each variant, by the same grid on validation rows, before a study is run."""

from pathlib import Path

from data.discovery.source import source_of
from trainer.studies.study import Expanded, Grid, inline_toml, set_options
from trainer.studies.tuning.checks import Search
from trainer.studies.tuning.output import TuningDisplay
from trainer.studies.tuning.search import tune
from trainer.studies.tuning.space import parse_space


def choose_on_grid(study: Expanded, grid: Grid, out: Path, parallel: int, threads: int) -> None:
    """Searches the grid for every variant, in OUT/tuning/VARIANT, and gives each its best values."""
    options = [f"{key}={','.join(map(inline_toml, values))}" for key, values in grid.values.items()]
    space = parse_space(options, [])
    validation = source_of(f"{study.dataset}/{grid.validation}")

    for variant in study.configs:
        changes = (*study.changes(variant), *_budget(grid), f"run.seed={grid.seed}")
        search = Search(study.config_file, changes, space, validation, prune=False)
        with TuningDisplay(f"tuning {variant}") as display:
            found = tune(search, out / "tuning" / variant, parallel, threads, display)
        study.choose(variant, found.best.values)


def _budget(grid: Grid) -> list[str]:
    """Of a trial: a short training, evaluated at its end alone."""
    return [f"train.samples={grid.samples}", "evaluate.at_samples=[]", *set_options(grid.set)]
