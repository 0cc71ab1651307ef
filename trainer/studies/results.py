"""What came out of a study: differences to its baseline with intervals, AUC, and the mean fusion weights.

Shapes: S seeds.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from scipy import stats

from trainer.analysis.compare.bootstrap import t_quantile
from trainer.analysis.compare.compare import Difference, compare_groups
from trainer.analysis.compare.seed_groups import Group, group_runs, read_run
from trainer.errors import ConfigError
from trainer.run.directory import RunDirectory
from trainer.run.matrices import Fusion, LevelWeights
from trainer.run.records import Evaluation, read_evaluations
from trainer.studies.study import Expanded


@dataclass(frozen=True)
class AucDifference:
    """AUC of a variant against the baseline's, over seeds alone; the test rows are the same for all."""

    variant: str
    task: str
    auc: float
    standard_error: float
    """Over seeds, of the mean."""
    difference: float
    """In AUC, not per cent; 0 for the baseline itself."""
    half: float
    """Of the 95 % interval of the difference, paired by seed; infinity for one seed."""
    p_value: float | None


@dataclass(frozen=True)
class Results:
    """Of the variants whose runs have all ended."""

    variants: tuple[str, ...]
    tasks: tuple[str, ...]
    against: dict[str, list[Difference]]
    """The differences to the baseline and to each rival: `run` is the variant's name."""
    ends: dict[str, list[dict[str, Evaluation]]]
    """By variant, for each seed: the evaluation of each task at the end."""
    aucs: list[AucDifference]
    fusion: dict[str, list[LevelWeights]]
    """Mean over seeds, by variant; those without gates are left out."""


def collect(study: Expanded, out: Path) -> Results:
    """Reads the runs of a study; raises ConfigError where one has no evaluation."""
    found = {name: _group([out / "runs" / run for run in study.names(name)]) for name in study.configs}
    baseline = study.study.baseline
    compared = {} if study.study.metric == "end" else found
    bases = dict.fromkeys([baseline, *study.study.rivals])
    against = {base: _differences(base, compared) for base in bases if base in found}
    ends = {name: [evaluations_at_end(Path(run.path)) for run in group.runs] for name, group in found.items()}
    fusions = {name: _mean_fusion(Path(run.path) for run in group.runs) for name, group in found.items()}
    gated = {name: levels for name, levels in fusions.items() if levels}
    tasks = tuple(found[baseline].tasks)
    aucs = auc_differences(ends, baseline) if compared else []

    return Results(tuple(found), tasks, against, ends, aucs, gated)


def _group(paths: list[Path]) -> Group:
    """A variant's runs, by seed."""
    groups = group_runs(read_run(str(path)) for path in paths)
    if len(groups) > 1:
        raise ConfigError(
            f"{groups[1].name}: was trained with another config or other data than {groups[0].name}; remove one of them"
        )
    return groups[0]


def _differences(base: str, groups: Mapping[str, Group]) -> list[Difference]:
    return [
        _renamed(difference, base, name)
        for name, group in groups.items()
        if name != base
        for difference in compare_groups(groups[base], group)
    ]


def _renamed(difference: Difference, base: str, name: str) -> Difference:
    return Difference(**{**vars(difference), "baseline": base, "run": name})


def evaluations_at_end(path: Path) -> dict[str, Evaluation]:
    """By task, on the whole test set, the last of a run."""
    records = [record for record in read_evaluations(RunDirectory(path).evaluations) if record.by is None]
    if not records:
        raise ConfigError(f"{path}: no evaluation in evaluations.jsonl; remove the run to train it anew")
    last = max(record.samples for record in records)
    return {record.task: record for record in records if record.samples == last}


def auc_differences(ends: Mapping[str, list[dict[str, Evaluation]]], baseline: str) -> list[AucDifference]:
    """Of every variant and binary task, paired by seed with the baseline's runs."""
    tasks = [task for task, record in ends[baseline][0].items() if record.auc is not None]
    found = []
    for task in tasks:
        old_S = _aucs(ends[baseline], task)
        for variant, runs in ends.items():
            new_S = _aucs(runs, task)
            found.append(_auc_difference(variant, task, new_S, old_S))

    return found


def _aucs(runs: list[dict[str, Evaluation]], task: str) -> list[float]:
    return [run[task].auc or math.nan for run in runs]


def _auc_difference(variant: str, task: str, new_S: list[float], old_S: list[float]) -> AucDifference:
    paired_S = [new - old for new, old in zip(new_S, old_S, strict=True)]
    count = len(paired_S)
    spread = stdev(paired_S) if count > 1 else 0.0
    half = t_quantile(count - 1) * spread / math.sqrt(count) if count > 1 else math.inf
    p_value = float(stats.ttest_1samp(paired_S, 0.0).pvalue) if spread > 0 else None
    error = stdev(new_S) / math.sqrt(len(new_S)) if len(new_S) > 1 else math.nan

    return AucDifference(variant, task, fmean(new_S), error, fmean(paired_S), half, p_value)


def holm(p_values: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """p values of a family of comparisons, corrected for their number (Holm, 1979)."""
    ordered = sorted(p_values, key=lambda key: p_values[key])
    corrected = {}
    largest = 0.0
    for place, key in enumerate(ordered):
        largest = max(largest, min((len(ordered) - place) * p_values[key], 1.0))
        corrected[key] = largest

    return corrected


def holm_at_end(differences: list[Difference]) -> dict[tuple[str, str], float]:
    """Corrected p values by (variant, task): the family is every variant and task at the end of training."""
    last = max((entry.samples for entry in differences), default=0)
    family = {
        (entry.run, entry.task): entry.p_value
        for entry in differences
        if entry.samples == last and entry.p_value is not None
    }
    return holm(family)


def rank_agreement(results: Results, task: str) -> float | None:
    """Kendall's tau of the variants' order by AUC and by NE: 1 is the same order. None where a variant has no AUC."""
    pairs = []
    for runs in results.ends.values():
        records = [run[task] for run in runs if task in run]
        if not records or any(record.auc is None or record.ne is None for record in records):
            return None
        pairs.append((-fmean(record.auc or 0 for record in records), fmean(record.ne or 0 for record in records)))

    return float(stats.kendalltau(*zip(*pairs, strict=True)).statistic) if len(pairs) > 1 else None


def _mean_fusion(paths: Iterable[Path]) -> list[LevelWeights]:
    """The newest fusion weights of each run, their mean; [] where there are none."""
    newest = [max((path / "fusion").glob("*.json"), key=lambda file: int(file.stem), default=None) for path in paths]
    fusions = [Fusion.from_json(file.read_text(encoding="utf-8")) for file in newest if file is not None]
    return [_mean_level(levels) for levels in zip(*(fusion.levels for fusion in fusions), strict=True)]


def _mean_level(levels: tuple[LevelWeights, ...]) -> LevelWeights:
    rows = zip(*(level.weights for level in levels), strict=True)
    weights = [[fmean(values) for values in zip(*of_seeds, strict=True)] for of_seeds in rows]
    return LevelWeights(units=levels[0].units, experts=levels[0].experts, weights=weights)
