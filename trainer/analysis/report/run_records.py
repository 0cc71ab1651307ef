"""What a run has left behind so far, read and checked for a report. A run may be under way, and miss any of it."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from data.errors import DataError
from data.manifest import Manifest
from data.storage.manifest_file import load_manifest
from trainer.analysis.compare.seed_groups import head_identity
from trainer.analysis.report.charts import COLOURS
from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.evaluation.calibration import Calibration
from trainer.run.directory import RunDirectory
from trainer.run.matrices import Conflicts, Fusion
from trainer.run.records import (
    Evaluation,
    Event,
    Window,
    read_evaluations,
    read_events,
    read_window_evaluations,
    read_windows,
)
from trainer.run.starts import RunStart, explain, read_starts

Value = TypeVar("Value")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class RunRecords:
    """A run's config and records; what is not there is empty."""

    name: str
    """Of its folder; the whole path where another run of the report has the same."""
    path: Path
    style: int
    """Number of its look in figures: seeds of one head share a colour, and differ in dashes and markers."""
    config: Config
    evaluations: list[Evaluation]
    """On the whole test set."""
    next_windows: list[Evaluation]
    """On each window of the training data before it was trained."""
    by_value: list[Evaluation]
    """The newest evaluation, for each value of the columns in `evaluate.by`."""
    windows: list[Window]
    starts: list[RunStart]
    events: list[Event]
    fusion: Fusion | None
    """Of the newest evaluation."""
    conflicts: list[Conflicts]
    """Of every evaluation of a run that looks at the tasks' gradients."""
    calibration: Calibration | None
    """Of the newest evaluation."""
    manifests: dict[str, Manifest]
    """Of the training and the test set, by train and test."""

    @property
    def samples(self) -> int:
        """The furthest that any record tells of."""
        trained = [window.samples for window in self.windows]
        return max(
            [*trained, *(start.reached for start in self.starts), *(e.samples for e in self.evaluations)],
            default=0,
        )

    def curve(self, key: str) -> list[tuple[float, float]]:
        """(samples, value) of a key of the training records, where it has a value."""
        points = []
        for window in self.windows:
            value = window.figures.get(key)
            if value is not None:
                points.append((float(window.samples), value))

        return points


def read_all_records(paths: list[str]) -> list[RunRecords]:
    """The records of runs, in the order given; raises ConfigError if one is no run, is damaged or is given twice."""
    folders = [RunDirectory(path).path for path in paths]
    places = [folder.resolve() for folder in folders]
    names = [place.name for place in places]
    runs: list[RunRecords] = []
    heads: dict[str, list[Path]] = {}

    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"{folder} is given twice; name each run once")
        name = place.name if names.count(place.name) == 1 else str(folder)
        run = RunDirectory(folder)
        config = run.read_config()
        seeds = heads.setdefault(head_identity(config), [])
        seeds.append(folder)
        style = list(heads.values()).index(seeds) + COLOURS * (len(seeds) - 1)
        runs.append(_read(name, run, config, style))

    return runs


def _read(name: str, run: RunDirectory, config: Config, style: int) -> RunRecords:
    evaluations = read_evaluations(run.evaluations)
    evaluations.sort(key=lambda found: found.samples)
    newest = [found for found in evaluations if found.samples == evaluations[-1].samples]

    return RunRecords(
        name=name,
        path=run.path,
        style=style,
        config=config,
        evaluations=[found for found in evaluations if found.by is None],
        next_windows=read_window_evaluations(run.evaluations),
        by_value=[found for found in newest if found.by is not None],
        windows=read_windows(run.train_log),
        starts=read_starts(run.segments),
        events=read_events(run.events),
        fusion=_read_newest(run.path / "fusion", Fusion, "the fusion weights of an evaluation"),
        conflicts=_read_all(run.path / "conflicts", Conflicts, "the cosines of gradients before an evaluation"),
        calibration=_read_newest(run.path / "calibration", Calibration, "the calibration of an evaluation"),
        manifests=_read_manifests(run),
    )


def _read_manifests(run: RunDirectory) -> dict[str, Manifest]:
    """Those that are there; what is wrong with others is reported where runs are compared."""
    found = {}
    for use, path in run.manifests.items():
        with suppress(DataError):
            found[use] = load_manifest(path)
    return found


def _read_newest(folder: Path, form: type[Model], what: str) -> Model | None:
    paths = _by_samples(folder)
    return _read_file(paths[-1], form, what) if paths else None


def _read_all(folder: Path, form: type[Model], what: str) -> list[Model]:
    return [_read_file(path, form, what) for path in _by_samples(folder)]


def _by_samples(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("*.json") if path.stem.isdecimal()), key=_samples_of)


def _read_file(path: Path, form: type[Model], what: str) -> Model:
    try:
        return form.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise _damaged(path, f"not {what} ({explain(error)})") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"not {what} ({error})") from error


def _samples_of(path: Path) -> int:
    return int(path.stem)


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path}: {what}; restore the file from a copy")
