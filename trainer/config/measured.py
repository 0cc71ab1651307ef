"""Keys of the config that the training data decides where the user does not: transforms, means, scales, task weights,
and how many rows are read together.

They are measured once, at the first start of a run, and are part of its resolved config from then on. So a later start,
an evaluation and a server all read the numbers that the weights were trained with.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from data.features import DenseFeature, Transform
from data.pipeline.block_rows import measure_block_rows
from data.reading import Reading
from data.statistics import Moments, Statistics
from models.losses import entropy
from models.tasks import TaskConfig
from trainer.config.run_config import Config

Part = TypeVar("Part", DenseFeature, TaskConfig)
MEASURED_OF_FEATURES = ("transform", "mean", "scale")
MEASURED_OF_TASKS = ("label_mean", "label_scale", "weight")
HIGHEST_WEIGHT = 10.0
"""Reached at 0.08 % positives. Rarer labels have too few to be worth the noise they would add to the shared weights."""
ENOUGH_VALUES = 1_000
"""Among fewer values one may well be most of the variance."""
HEAVY_TAIL = 10.0
"""Standard deviations from the mean: a column with a value farther out has a heavy tail, which heads learn badly."""


def is_complete(config: Config) -> bool:
    """Whether nothing is left to be measured."""
    for feature in config.features.dense:
        if None in (feature.transform, feature.mean, feature.scale):
            return False

    if any(feature.asked_quantiles for feature in config.features.sparse):
        return False

    for task in config.tasks:
        has_scale = task.binary or task.label_scale is not None
        if None in (task.label_mean, task.weight) or not has_scale:
            return False

    return True


def complete(config: Config, statistics: Statistics) -> Config:
    """The config with measured values for the keys that it leaves out."""
    dense = zip(config.features.dense, statistics.dense, strict=True)
    tasks = zip(config.tasks, statistics.labels, strict=True)
    features = [_complete_feature(feature, moments) for feature, moments in dense]
    config = _with_boundaries(config, statistics.boundaries)
    return _with(config, features, [_complete_task(task, moments) for task, moments in tasks])


def with_block_rows(config: Config, reading: Reading, world_size: int) -> Config:
    """The config with measured `data.block_rows`, if it leaves that out; DataError if a rank has too little memory."""
    if config.data.block_rows is not None:
        return config
    block_rows = measure_block_rows(reading, config.data.memory, reading.lanes // world_size)
    return _with_data(config, block_rows)


def complete_from(config: Config, before: Config) -> Config:
    """The config with what the resolved config of its run holds for the keys that it leaves out.

    Features are matched by column, those of one column by their order, and tasks by name; where they differ otherwise,
    the comparison of the two configs says so.
    """
    features: dict[str, list[DenseFeature]] = {}
    for feature in before.features.dense:
        features.setdefault(feature.column, []).append(feature)

    dense = []
    for feature in config.features.dense:
        of_column = features.get(feature.column)
        earlier = of_column.pop(0) if of_column else None
        dense.append(_fill_from(feature, earlier, MEASURED_OF_FEATURES))

    by_name = {task.name: task for task in before.tasks}
    tasks = [_fill_from(task, by_name.get(task.name), MEASURED_OF_TASKS) for task in config.tasks]
    asked = {feature.name: feature.asked_quantiles for feature in config.features.sparse}
    measured = [feature for feature in before.features.sparse if feature.quantiles]
    boundaries = {entry.name: entry.edges for entry in measured if entry.quantiles == asked.get(entry.name)}
    config = _with_boundaries(_with(config, dense, tasks), boundaries)
    config = _with_digests(config, before)
    config = _with_checkpoint(config, before)
    return config if config.data.block_rows else _with_data(config, before.data.block_rows)


def _fill_from(part: Part, before: Part | None, keys: tuple[str, ...]) -> Part:
    if before is None:
        return part
    return _fill(part, {key: getattr(before, key) for key in keys})


def _space(task: TaskConfig) -> str:
    return f" and fits where = {task.where!r}" if task.where is not None else ""


def odd_columns(config: Config, statistics: Statistics) -> list[str]:
    """A line for each column that has nothing to learn from or with, and for each label that one value rules, as far as
    the rows were measured.
    """
    lines = []
    for task, moments in zip(config.tasks, statistics.labels, strict=True):
        if moments.count == 0:
            lines.append(f"task {task.name!r}: no measured training row has its label {task.label!r}{_space(task)}")
        elif moments.low == moments.high:
            lines.append(
                f"task {task.name!r}: its label {task.label!r} is {moments.low:g} in all measured training rows"
            )
        elif not task.binary and moments.count >= ENOUGH_VALUES and moments.reach**2 > moments.count / 2:
            lines.append(
                f"task {task.name!r}: one value of its label {task.label!r} (they reach from {moments.low:g} to "
                f"{moments.high:g}) makes most of its variance, and so label_scale; if it is a mistake, write null"
            )

    for feature, measured in zip(config.features.dense, statistics.dense, strict=True):
        moments = next(iter(measured.values()))
        if moments.count == 0:
            lines.append(f"dense feature {feature.column!r} has no value in the measured training rows")
        elif moments.low == moments.high:
            lines.append(f"dense feature {feature.column!r} is {moments.low:g} in all measured training rows")

    return lines


def _complete_feature(feature: DenseFeature, measured: dict[Transform, Moments]) -> DenseFeature:
    transform: Transform = next(iter(measured))
    # A column that does not vary yet, such as a count of what users did before the log's first day, will some day.
    if "log1p" in measured and (measured[transform].reach > HEAVY_TAIL or not measured[transform].deviation):
        transform = "log1p"

    scale = measured[transform].deviation or 1.0  # a constant column is 0 everywhere, whatever it is divided by
    return _fill(feature, {"transform": transform, "mean": measured[transform].mean, "scale": scale})


def _complete_task(task: TaskConfig, moments: Moments) -> TaskConfig:
    if not task.binary:
        return _fill(task, {"label_mean": moments.mean, "label_scale": moments.deviation or 1.0, "weight": 1.0})

    # Half a positive and half a negative more: a label that no measured row has gets no infinite log odds.
    positives = moments.mean * moments.count + 0.5
    completed = _fill(task, {"label_mean": positives / (moments.count + 1)})
    return _fill(completed, {"weight": weight_of_rate(completed.label_mean or 0.5)})


def weight_of_rate(rate: float) -> float:
    """Weight of a binary task whose label this share of rows carries: between the plain sum (1) and equal shares of all
    tasks in the loss (log 2 / entropy), which costs the frequent ones.
    """
    return min(math.sqrt(math.log(2) / entropy(rate)), HIGHEST_WEIGHT)


def _fill(part: Part, values: dict[str, float | str | None]) -> Part:
    """The part with these values where it has none."""
    missing = {key: value for key, value in values.items() if getattr(part, key) is None}
    return part.model_copy(update=missing)


def _with(config: Config, dense: list[DenseFeature], tasks: list[TaskConfig]) -> Config:
    features = config.features.model_copy(update={"dense": tuple(dense)})
    return config.model_copy(update={"features": features, "tasks": tuple(tasks)})


def _with_boundaries(config: Config, boundaries: dict[str, tuple[float, ...]]) -> Config:
    """The config with these boundaries, by feature, and how many buckets were asked for."""
    open_features = [feature for feature in config.features.sparse if feature.asked_quantiles is not None]
    known = {
        feature.name: {"boundaries": boundaries[feature.name], "quantiles": feature.asked_quantiles}
        for feature in open_features
        if feature.name in boundaries
    }
    return with_sparse(config, known)


def _with_digests(config: Config, before: Config) -> Config:
    """The config with the vocabularies of its run."""
    known = {feature.name: feature.vocabulary_digest for feature in before.features.sparse if feature.vocabulary}
    open_features = [feature.name for feature in config.features.sparse if feature.vocabulary_digest is None]
    return with_sparse(config, {name: {"vocabulary_digest": known.get(name)} for name in open_features})


def _with_checkpoint(config: Config, before: Config) -> Config:
    """The config with the checkpoint that its run began with, in place of "latest", which may be another by now."""
    init, known = config.init, before.init
    if init is None or known is None or init.checkpoint.isdecimal():
        return config
    return config.model_copy(update={"init": init.model_copy(update={"checkpoint": known.checkpoint})})


def with_sparse(config: Config, values: Mapping[str, dict[str, Any]]) -> Config:
    """The config with other values of keys of sparse features, by the feature's name."""
    sparse = tuple(feature.model_copy(update=values.get(feature.name, {})) for feature in config.features.sparse)
    features = config.features.model_copy(update={"sparse": sparse})
    return config.model_copy(update={"features": features})


def _with_data(config: Config, block_rows: int | None) -> Config:
    data = config.data.model_copy(update={"block_rows": block_rows})
    return config.model_copy(update={"data": data})
