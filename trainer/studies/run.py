"""From a study's folder to its page: data, hyper-parameters, trainings, tables. What has been done is not repeated."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data.storage.paths import full_path
from trainer.datasets import check_columns, open_manifest, train_reading
from trainer.errors import ConfigError, RunError
from trainer.planning.plan import Size
from trainer.planning.sweep import plan_sizes
from trainer.studies.equal_flops import cost_of
from trainer.studies.folder import held_folder
from trainer.studies.grids import choose_on_grid
from trainer.studies.pages import write_study
from trainer.studies.progress import StudyDisplay
from trainer.studies.results import collect
from trainer.studies.study import DatasetSource, Expanded
from trainer.studies.tables import StudyTable, study_tables
from trainer.studies.trainings import Progress, Training, has_ended, run_trainings, seconds_of, use_threads


def run_study(study: Expanded, out: Path, parallel: int, threads: int, command: str) -> list[StudyTable]:
    """Trains what is missing, and writes the pages into OUT; the tables.

    Raises Stopped when it is asked to end: what has been trained is saved.
    """
    make_dataset(study.study.dataset, study.dataset, short=study.short)
    _check_data(study)
    with held_folder(out, "study"):
        return _run(study, out, parallel, threads, command)


def _run(study: Expanded, out: Path, parallel: int, threads: int, command: str) -> list[StudyTable]:
    (out / "runs").mkdir(exist_ok=True)
    grid = None if study.short else study.study.grid
    trial_samples = len(study.configs) * grid.num_samples if grid else 0

    with StudyDisplay(study.study.title, trial_samples, study.trainings()) as display:
        if grid:
            choose_on_grid(study, grid, out, parallel, threads, display.trials)
        failure = _train(study, out, parallel, threads, display.runs)

    results = collect(study, out)
    tables = study_tables(study, results)
    write_study(study, results, tables, command, out)
    if failure is not None:
        raise RunError(f"{failure}; the page is without the variants that failed") from failure
    return tables


def _train(study: Expanded, out: Path, parallel: int, threads: int, progress: Progress) -> RunError | None:
    """Trains what is missing; of failed trainings the error, with their variants left out of the study.

    Raises it at once if the baseline has failed: nothing can be compared then.
    """
    try:
        run_trainings(study.trainings(), out, parallel, threads, progress)
    except RunError as error:
        for name in [name for name in study.configs if not _all_ended(study, name, out)]:
            if name == study.study.baseline:
                raise
            del study.configs[name]
        return error
    return None


def _all_ended(study: Expanded, variant: str, out: Path) -> bool:
    return all(has_ended(one, out) for one in study.trainings_of(variant))


def make_dataset(source: DatasetSource, dataset: str, *, short: bool) -> None:
    """Writes the study's data where it is not there; ConfigError names the command where that takes files of others."""
    make = source.make_short if short and source.make_short else source.make
    folder = Path(full_path(dataset))
    if folder.exists():
        return
    if not make:
        raise ConfigError(f"{folder}: no such dataset; {source.need or 'the study does not say how to make it'}")

    call = [sys.executable, "-m", "trainer", *make]
    if subprocess.run(call, check=False, stdout=subprocess.DEVNULL).returncode:  # its own error line is out
        raise RunError(f"{folder}: could not be written (adatt {' '.join(make)})")


def _check_data(study: Expanded) -> None:
    """Raises ExpectedError, before hours of other trainings, if a variant cannot be trained or tested on its data."""
    for config in study.configs.values():
        assert config.data.test_source is not None  # every study sets data.test
        train = open_manifest(config.data.train_source)
        check_columns(train, config)
        check_columns(open_manifest(config.data.test_source), config, trains=False)
        train_reading(config, train)


def dry_run_table(study: Expanded, out: Path, parallel: int, threads: int) -> StudyTable:
    """What the study takes: for each variant its runs, samples, FLOPs and hours."""
    seen = _flops_per_second(study, out)
    rate = parallel * (seen or _planned_flops_per_second(study, threads))
    rows = [[name, *_figures(study, [name], out, rate)] for name in study.configs]
    rows.append(["all", *_figures(study, list(study.configs), out, rate)])

    basis = (
        "by the speed of the runs that have ended" if seen else "by the model of adatt plan on this machine, just now"
    )
    note = f"TFLOP: of the heads, forward and backward. Hours: {basis}, {parallel} at a time, without the grid."
    return StudyTable(study.study.title, ["", "runs", "ended", "samples", "TFLOP", "hours left"], rows, note)


def _figures(study: Expanded, variants: Sequence[str], out: Path, rate: float) -> list[str]:
    """Of all runs of some variants; `rate`: FLOPs a second."""
    runs = [(training, _flops(study, name, training)) for name in variants for training in study.trainings_of(name)]
    left = [flops for training, flops in runs if not has_ended(training, out)]
    samples = sum(training.samples for training, _ in runs)
    all_flops = sum(flops for _, flops in runs)
    hours = sum(left) / rate / 3600
    return [f"{len(runs)}", f"{len(runs) - len(left)}", f"{samples:,}", f"{all_flops / 1e12:,.1f}", f"{hours:.2f}"]


def _flops(study: Expanded, variant: str, training: Training) -> float:
    return float(cost_of(study.configs[variant]).training_flops) * training.samples


def _flops_per_second(study: Expanded, out: Path) -> float | None:
    """Of one training, over those that have ended."""
    flops, seconds = 0.0, 0.0
    for name in study.configs:
        for training in study.trainings_of(name):
            known = seconds_of(training, out)
            if known is not None:
                flops += _flops(study, name, training)
                seconds += known
    return flops / seconds if seconds else None


def _planned_flops_per_second(study: Expanded, threads: int) -> float:
    """Of the baseline, as `adatt plan` has it for this machine."""
    use_threads(threads)
    config = study.configs[study.study.baseline]
    (planned,) = plan_sizes(config, [1], "cpu", None, [])
    if not isinstance(planned, Size):
        raise ConfigError(
            f"{study.config_file}: its tables do not fit into this machine's memory (adatt plan says more)"
        )
    return float(cost_of(config).training_flops) * planned.samples_per_second
