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
from trainer.evaluation.metrics import Metrics, MetricSums
from trainer.run.starts import Samples

GROUPS = 10
_Z = NormalDist().inv_cdf(0.975)


class CalibrationCurve(BaseModel):
    """A task's test rows in groups of equal weight, in ascending order of the prediction; G entries in each list."""

    task: str
    share: list[float]
    """Of the weight that lies below the middle of each group."""
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


def calibration_curve(task: str, sums: MetricSums, number: int, found: Metrics) -> CalibrationCurve | None:
    """The curve of binary task `number`, from its histogram; None where the task has no metrics."""
    if found.log_loss is None:
        return None
    negative_H, positive_H = sums.histogram_2TH[:, number].cpu()
    weight_H = negative_H + positive_H
    group_H = ((weight_H.cumsum(0) - weight_H / 2) / found.weight * GROUPS).long().clamp_(0, GROUPS - 1)
    sums_3G = torch.zeros(3, GROUPS, dtype=torch.float64)
    sums_3G.index_add_(1, group_H, torch.stack([weight_H, positive_H, weight_H * sums.bin_predictions()]))
    weight_G, positive_G, predicted_G = sums_3G[:, sums_3G[0] > 0]
    observed = (positive_G / weight_G).tolist()
    counts = (weight_G * found.examples / found.weight).tolist()
    intervals = [_wilson(rate, count) for rate, count in zip(observed, counts, strict=True)]
    return CalibrationCurve(
        task=task,
        share=((weight_G.cumsum(0) - weight_G / 2) / found.weight).tolist(),
        predicted=(predicted_G / weight_G).tolist(),
        observed=observed,
        low=[low for low, _ in intervals],
        high=[high for _, high in intervals],
    )


def _wilson(rate: float, count: float) -> tuple[float, float]:
    middle, scale = (rate + _Z**2 / (2 * count)), 1 + _Z**2 / count
    half = _Z * math.sqrt(rate * (1 - rate) / count + _Z**2 / (4 * count**2))
    return max(middle - half, 0.0) / scale, min((middle + half) / scale, 1.0)


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes the curves of an evaluation, in one step."""
    replace_text(path, calibration.model_dump_json() + "\n")
