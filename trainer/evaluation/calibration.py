"""Calibration along the predictions: do rows that the model scores low, and high, come out as often as it says?

Shapes: H histogram bins of the logit, G groups of rows.
"""

import math
from pathlib import Path
from statistics import NormalDist
from typing import Self

import torch
from pydantic import BaseModel, model_validator

from data.storage.files import replace_text
from models.tasks import TaskConfig
from trainer.evaluation.metrics import Metrics, MetricSums
from trainer.run.starts import Samples

GROUPS = 10
_Z = NormalDist().inv_cdf(0.975)
"""Quantile of the normal distribution for intervals of 95 %."""


class CalibrationCurve(BaseModel):
    """A task's test rows in groups of equal weight, in ascending order of the prediction; G entries in each list."""

    task: str
    share: list[float]
    """Share of the weight that lies below the middle of each group."""
    predicted: list[float]
    """Mean prediction."""
    observed: list[float]
    """Rate of positives."""
    low: list[float]
    high: list[float]
    """95 % interval of that rate (Wilson), each row taken to weigh the same."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        lists = (self.share, self.predicted, self.observed, self.low, self.high)
        if len({len(values) for values in lists}) > 1 or min(self.predicted, default=1.0) <= 0:
            raise ValueError("its lists differ in length, or a prediction is not above 0")
        return self


class Calibration(BaseModel):
    """The curves of all binary tasks at one evaluation: RUN/calibration/<samples>.json."""

    samples: Samples
    tasks: list[CalibrationCurve]


def calibration_curves(
    tasks: tuple[TaskConfig, ...], sums: MetricSums, metrics: list[Metrics]
) -> list[CalibrationCurve]:
    """The curve of each binary task that is not auxiliary and has metrics."""
    curves = []
    for index, task in enumerate(tasks):
        if task.binary and not task.auxiliary:
            curve = calibration_curve(task.name, sums, index, metrics[index])
            curves.append(curve)
    return [curve for curve in curves if curve is not None]


def calibration_curve(task: str, sums: MetricSums, index: int, metrics: Metrics) -> CalibrationCurve | None:
    """The curve of the binary task with this index, from its histogram; None if the task has no metrics.

    A bin belongs to one group as a whole, so that groups are as equal as the bins allow.
    """
    if metrics.log_loss is None:
        return None

    weight_G, positive_G, predicted_G = _group_sums(sums, index, metrics.weight)
    share_G = (weight_G.cumsum(0) - weight_G / 2) / metrics.weight
    predicted_G = predicted_G / weight_G
    observed_G = positive_G / weight_G
    count_G = weight_G * metrics.examples / metrics.weight

    low, high = _wilson_intervals(observed_G.tolist(), count_G.tolist())
    return CalibrationCurve(
        task=task,
        share=share_G.tolist(),
        predicted=predicted_G.tolist(),
        observed=observed_G.tolist(),
        low=low,
        high=high,
    )


def _group_sums(sums: MetricSums, index: int, total_weight: float) -> torch.Tensor:
    """Weight, weight of positives, and weight x prediction of each group (3, G), without empty groups."""
    negative_H, positive_H = sums.histogram_2TH[:, index].cpu()
    weight_H = negative_H + positive_H
    predicted_H = weight_H * sums.bin_logits().sigmoid()

    # A bin belongs to the group in which the middle of its weight lies.
    below_H = weight_H.cumsum(0) - weight_H / 2
    group_H = (below_H / total_weight * GROUPS).long()
    group_H.clamp_(0, GROUPS - 1)

    # One scatter adds up the bins of each group.
    sums_3H = torch.stack([weight_H, positive_H, predicted_H])
    sums_3G = torch.zeros(3, GROUPS, dtype=torch.float64)
    sums_3G.index_add_(1, group_H, sums_3H)

    return sums_3G[:, sums_3G[0] > 0]


def _wilson_intervals(rates: list[float], counts: list[float]) -> tuple[list[float], list[float]]:
    """Bounds of the 95 % interval of each true rate, after a rate was observed in so many rows (Wilson, JASA 1927)."""
    lows = []
    highs = []

    for rate, count in zip(rates, counts, strict=True):
        scale = 1 + _Z**2 / count
        middle = rate + _Z**2 / (2 * count)
        sampling = rate * (1 - rate) / count
        half = _Z * math.sqrt(sampling + _Z**2 / (4 * count**2))

        lows.append(max(middle - half, 0.0) / scale)
        highs.append(min((middle + half) / scale, 1.0))

    return lows, highs


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes the curves of an evaluation, replacing the file in one step."""
    replace_text(path, calibration.model_dump_json() + "\n")
