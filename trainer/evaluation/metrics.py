"""Evaluation metrics from sums, so that batches and ranks add up exactly and memory does not grow.

Shapes: B rows, T tasks, K buckets of rows, H histogram bins.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from trainer.evaluation.auc import area_under_curve

BINS = 1 << 17
"""Histogram bins for AUC, equally wide in the logit."""
ROUNDING = 1e-12
"""Share of the mean square of labels below which their variance is taken for 0."""
LOGIT_RANGE = 16.0
"""Logits beyond ± this fall into the outermost bins: probabilities of 1e-7 and less are not told apart."""


@dataclass(frozen=True)
class Metrics:
    """A task's metrics on a set; None where one does not apply or is not defined."""

    examples: int
    """Rows with a label."""
    weight: float
    log_loss: float | None = None
    ne: float | None = None
    """Normalized Entropy: log loss / entropy of the set's own positive rate (He et al., ADKDD 2014)."""
    auc: float | None = None
    auc_error: float | None = None
    """Bound on the error of `auc`: half the share of (positive, negative) pairs that fall into one bin of a histogram;
    0 where `trainer.evaluation.auc` has computed it exactly."""
    calibration: float | None = None
    """Mean prediction / mean label."""
    mse: float | None = None
    nmse: float | None = None
    """Normalised MSE: MSE / variance of the set's own labels; 1.0 is the constant predictor."""
    prediction_mean: float | None = None
    label_mean: float | None = None


class MetricSums:
    """Weighted sums of T tasks in float64. A task is binary or not, as `is_binary_T` says."""

    NAMES = ("examples", "weight", "loss", "prediction", "label", "label_squared")

    def __init__(self, is_binary_T: torch.Tensor, buckets: int = 1, bins: int = BINS) -> None:
        num_tasks, device = len(is_binary_T), is_binary_T.device
        self._is_binary_T, self._bins = is_binary_T, bins
        self.sums_6TK = torch.zeros(len(self.NAMES), num_tasks, buckets, dtype=torch.float64, device=device)
        """All but the first weighted. A loss is the log loss, or the squared error."""
        self.histogram_2TH = torch.zeros(2, num_tasks, bins, dtype=torch.float64, device=device)
        """Weight of negatives, and of positives, per bin of the logit."""

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All that has to be added up over ranks."""
        return self.sums_6TK, self.histogram_2TH

    def update(
        self,
        logits_BT: torch.Tensor,
        labels_BT: torch.Tensor,
        weights_BT: torch.Tensor,
        bucket_B: torch.Tensor | None = None,
    ) -> None:
        """Adds rows, into the first bucket where none is given; those of weight 0 count nowhere. Asynchronous."""
        logits_BT, labels_BT, weights_BT = logits_BT.double(), labels_BT.double(), weights_BT.double()
        predictions_BT = torch.where(self._is_binary_T, logits_BT.sigmoid(), logits_BT)
        cross_entropy_BT = functional.binary_cross_entropy_with_logits(logits_BT, labels_BT, reduction="none")
        loss_BT = torch.where(self._is_binary_T, cross_entropy_BT, (logits_BT - labels_BT).square())
        values = (torch.ones_like(loss_BT), loss_BT, predictions_BT, labels_BT, labels_BT.square())
        counts_BT = weights_BT > 0
        weighted = [torch.where(counts_BT, values_BT, 0) * weights_BT for values_BT in values]  # 0 x infinity is no 0
        sums_6TB = torch.stack([counts_BT, *weighted]).transpose(1, 2)
        if bucket_B is None:
            self.sums_6TK[:, :, 0] += sums_6TB.sum(dim=2)
        else:
            self.sums_6TK.index_add_(2, bucket_B, sums_6TB)
        self._update_histogram(logits_BT, labels_BT, weights_BT)

    def _update_histogram(self, logits_BT: torch.Tensor, labels_BT: torch.Tensor, weights_BT: torch.Tensor) -> None:
        place_BT = histogram_places(logits_BT, labels_BT, self._bins)
        self.histogram_2TH.view(-1).index_add_(0, place_BT.reshape(-1), weights_BT.reshape(-1))

    def bin_predictions(self) -> torch.Tensor:
        """The probability in the middle of each histogram bin (H)."""
        middle_H = (torch.arange(self._bins, dtype=torch.float64) + 0.5) / (self._bins / 2) - 1
        return (middle_H * LOGIT_RANGE).sigmoid()

    def compute(self) -> list[Metrics]:
        """Metrics of each task from the sums."""
        columns = self.sums_6TK.sum(dim=2).t().tolist()
        return [
            _binary(column, self.histogram_2TH[:, task]) if binary else _regression(column)
            for task, (column, binary) in enumerate(zip(columns, self._is_binary_T.tolist(), strict=True))
        ]


def with_exact_auc(metrics: list[Metrics], aucs: dict[int, float | None]) -> list[Metrics]:
    """The metrics with what `trainer.evaluation.auc` computed, by task number, in place of the histogram's AUC."""
    exact = list(metrics)
    for task, auc in aucs.items():
        if exact[task].auc is not None:
            exact[task] = replace(exact[task], auc=auc, auc_error=0.0)
    return exact


def histogram_places(logits_BT: torch.Tensor, labels_BT: torch.Tensor, bins: int) -> torch.Tensor:
    """Where rows belong in a histogram of shape (2, T, `bins`) laid out flat."""
    num_tasks = logits_BT.shape[1]
    inside_BT = (logits_BT / LOGIT_RANGE).clamp(-1, 1).nan_to_num()  # before they are integers, which wrap
    bin_BT = ((inside_BT + 1) * (bins / 2)).long().clamp_max_(bins - 1)
    task_T = torch.arange(num_tasks, device=logits_BT.device)
    return ((labels_BT > 0.5).long() * num_tasks + task_T) * bins + bin_BT


def entropy(rate: float) -> float:
    """Entropy in nats of a coin that shows heads at this rate; 0 for a rate of 0 or 1."""
    return -sum(share * math.log(share) for share in (rate, 1 - rate) if share > 0)


def _binary(column: list[float], histogram_2H: torch.Tensor) -> Metrics:
    examples, weight, loss, prediction, label, _ = column
    if weight == 0 or not math.isfinite(loss):
        return Metrics(int(examples), weight)
    background = entropy(label / weight)
    auc, tied = area_under_curve(histogram_2H)
    return Metrics(
        examples=int(examples),
        weight=weight,
        log_loss=loss / weight,
        ne=loss / weight / background if auc is not None and background > 0 else None,  # the histogram is exact
        auc=auc,
        auc_error=tied / 2 if tied is not None else None,
        calibration=prediction / label if label > 0 else None,
        prediction_mean=prediction / weight,
        label_mean=label / weight,
    )


def _regression(column: list[float]) -> Metrics:
    examples, weight, loss, prediction, label, label_squared = column
    if weight == 0 or not math.isfinite(loss):
        return Metrics(int(examples), weight)
    variance = label_squared / weight - (label / weight) ** 2
    return Metrics(
        examples=int(examples),
        weight=weight,
        mse=loss / weight,
        nmse=loss / weight / variance if variance > ROUNDING * label_squared / weight else None,
        prediction_mean=prediction / weight,
        label_mean=label / weight,
    )
