"""What must hold before runs are compared: the same test rows, in the same buckets, and something in common."""

from collections.abc import Iterable

from data.counts import format_count
from data.errors import DataError
from trainer.analysis.compare.seed_groups import Group, Run
from trainer.errors import ConfigError
from trainer.evaluation.bucket_sums import Buckets


def check_on_one_side(baseline: Group, groups: list[Group]) -> None:
    """Raises ConfigError if one training is among several on both sides; one against itself is a fair question."""
    for group in groups:
        if group.runs[0].identity == baseline.runs[0].identity and len(baseline.runs) + len(group.runs) > 2:
            seeds = {run.seed: run.path for run in baseline.runs}
            for run in group.runs:
                if run.seed in seeds:
                    raise ConfigError(
                        f"{run.path} is the same training as {seeds[run.seed]} of the baseline (config and seed "
                        f"{run.seed}): leave it out on one side"
                    )


def check_same_test_set(runs: list[Run]) -> None:
    """Raises DataError if runs were evaluated on other test rows."""
    first_path = runs[0].path
    first = next(iter(runs[0].points.values())).fingerprint

    for run in runs:
        for point, buckets in run.points.items():
            if buckets.fingerprint == first:
                continue
            fingerprints = f"fingerprints {buckets.fingerprint[:12]}, {first[:12]}"
            raise DataError(
                f"{run.path} was evaluated at {format_count(point)} on another test set, or another version of it, "
                f"than {first_path} ({fingerprints}); compare runs tested on the same rows"
            )


def check_same_unit(runs: list[Run], data: str | None) -> None:
    """Raises ConfigError if runs have the same rows in other buckets at one milestone."""
    first: dict[int, tuple[str, Buckets]] = {}
    for run in runs:
        for point, buckets in run.points.items():
            path, known = first.setdefault(point, (run.path, buckets))
            if known.unit != buckets.unit:
                # The one whose rows were taken as independent is evaluated anew, by the other's unit.
                stale, unit = (run.path, known.unit) if known.unit is not None else (path, buckets.unit)
                at = (buckets if stale == run.path else known).samples
                on = f" --data {data}" if data else ""
                differs = f"{run.path} was evaluated at {format_count(point)} {buckets.by}, but {path} {known.by}"
                command = f"adatt evaluate {stale} --checkpoint {at} --unit {unit}{on}"
                raise ConfigError(f"{differs}; evaluate anew: {command}")


def nothing_in_common(what: str, baseline: Group, group: Group, old: Iterable[str], new: Iterable[str]) -> ConfigError:
    """The error of two heads without a milestone or task in common; `old` and `new` are those of each."""
    names = f"{group.name} and the baseline {baseline.name}"
    values = f"{', '.join(new)}; {', '.join(old)}"
    return ConfigError(f"{names} have no {what} in common ({values}); compare runs that share one")
