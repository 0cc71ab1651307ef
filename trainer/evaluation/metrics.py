"""The definition of every metric, computed from sums over rows.

The rows are those of a test set; for NE also of a training window (`trainer.logging.window`) and of the buckets that
`trainer.analysis.compare` draws.

Normalized Entropy (NE) of a binary task, with weight w, label y and predicted probability q of each row
(He et al., ADKDD 2014):

    log loss = Σ w · -(y ln q + (1 - y) ln(1 - q)) / Σ w        summed from the logits in float64 by `MetricSums.add`
    p        = Σ w · y / Σ w                                    the positive rate of the test set itself
    NE       = log loss / -(p ln p + (1 - p) ln(1 - p))         `normalized_entropy`, from the two above

The constant prediction p has NE 1; lower is better. A regression task has the mean squared error, and its quotient with
the variance of the labels, for which the same holds.

Only sums are kept of the rows. They add up exactly over batches and ranks, and need no more memory for more rows. The
one collective is `MetricSums.add_over_ranks`; everything after it is computed alike on every rank.

Shapes: B rows, T tasks, K buckets of rows, H histogram bins. The leading 6 and 2 are named in `MetricSums`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from models.losses import entropy, losses, predictions
from trainer.distributed.world import World
from trainer.evaluation.auc import area_under_curve

BINS = 1 << 17
"""Histogram bins for AUC, equally wide in the logit."""
ROUNDING = 1e-12
"""If the variance of the labels is a smaller share of their mean square than this, it is rounding and counts as 0."""
LOGIT_RANGE = 16.0
"""Logits beyond ± this fall into the outermost bins: probabilities of 1e-7 and less are not told apart."""


@dataclass(frozen=True)
class Metrics:
    """A task's metrics on a set of rows; None for one that does not apply or is not defined."""

    examples: int
    """Number of rows with a label and a weight above 0."""
    weight: float
    """Sum of their weights."""
    log_loss: float | None = None
    ne: float | None = None
    """Normalized Entropy; see the top of this file."""
    auc: float | None = None
    auc_error: float | None = None
    """Bound on the error of `auc`: half the share of (positive, negative) pairs that fall into one bin of a histogram;
    0 if `trainer.evaluation.auc` has computed it exactly."""
    calibration: float | None = None
    """Mean prediction / mean label."""
    mse: float | None = None
    nmse: float | None = None
    """Normalised MSE: MSE / variance of the set's own labels; 1.0 is the constant predictor."""
    prediction_mean: float | None = None
    label_mean: float | None = None


def normalized_entropy(log_loss: float, positive_rate: float) -> float | None:
    """Log loss / entropy of the positive rate; None if all labels are alike, so that the entropy is 0."""
    background = entropy(positive_rate)
    return log_loss / background if background > 0 else None


class MetricSums:
    """Weighted sums of T tasks in float64, in K buckets of rows.

    A binary task's loss is the log loss of its logit, a regression task's the squared error of its prediction.
    """

    NAMES = ("examples", "weight", "loss", "prediction", "label", "label_squared")
    """What the rows of `sums_6TK` hold."""

    def __init__(self, is_binary_T: torch.Tensor, buckets: int = 1, bins: int = BINS) -> None:
        self._is_binary_T = is_binary_T
        self._bins = bins
        num_tasks = len(is_binary_T)
        device = is_binary_T.device
        shape = (len(self.NAMES), num_tasks, buckets)
        self.sums_6TK = torch.zeros(shape, dtype=torch.float64, device=device)
        """Number of examples, then sums of weight, weight x loss, and so on."""
        self.histogram_2TH = torch.zeros(2, num_tasks, bins, dtype=torch.float64, device=device)
        """Weight of negatives, and of positives, per bin of the logit."""

    def add(
        self,
        logits_BT: torch.Tensor,
        labels_BT: torch.Tensor,
        weights_BT: torch.Tensor,
        bucket_B: torch.Tensor | None = None,
    ) -> None:
        """Adds rows, into the first bucket if none is given; those of weight 0 count nowhere. Asynchronous."""
        logits_BT = logits_BT.double()
        labels_BT = labels_BT.double()
        weights_BT = weights_BT.double()
        loss_BT = losses(logits_BT, labels_BT, self._is_binary_T)
        predictions_BT = predictions(logits_BT, self._is_binary_T)
        ones_BT = torch.ones_like(loss_BT)
        values = (ones_BT, loss_BT, predictions_BT, labels_BT, labels_BT.square())

        # A row of weight 0 may have an infinite loss, and 0 x infinity is NaN: so its values are replaced by 0 first.
        counts_BT = weights_BT > 0
        weighted = [torch.where(counts_BT, values_BT, 0) * weights_BT for values_BT in values]

        sums_6TB = torch.stack([counts_BT, *weighted]).transpose(1, 2)
        if bucket_B is None:
            self.sums_6TK[:, :, 0] += sums_6TB.sum(dim=2)
        else:
            self.sums_6TK.index_add_(2, bucket_B, sums_6TB)

        place_BT = histogram_places(logits_BT, labels_BT, self._bins)
        flat_histogram = self.histogram_2TH.view(-1)
        flat_histogram.index_add_(0, place_BT.reshape(-1), weights_BT.reshape(-1))

    def add_over_ranks(self, world: World) -> None:
        """Replaces this rank's sums by those of all ranks. Collective: call on all ranks."""
        for tensor in (self.sums_6TK, self.histogram_2TH):
            # The sums may be on the host (the oracle's are), but NCCL adds up tensors on the GPU only.
            total = world.sum(tensor.to(world.device))
            tensor.copy_(total)

    def bin_logits(self) -> torch.Tensor:
        """The logit in the middle of each histogram bin (H)."""
        bin_H = torch.arange(self._bins, dtype=torch.float64)
        middle_H = (bin_H + 0.5) / (self._bins / 2) - 1
        return middle_H * LOGIT_RANGE

    def compute(self) -> list[Metrics]:
        """Metrics of each task from the sums of all buckets together. Waits for the device."""
        sums_of_tasks = self.sums_6TK.sum(dim=2).t().tolist()
        is_binary = self._is_binary_T.tolist()

        metrics = []
        for task, sums in enumerate(sums_of_tasks):
            if is_binary[task]:
                metrics.append(_binary(sums, self.histogram_2TH[:, task]))
            else:
                metrics.append(_regression(sums))

        return metrics


def histogram_places(logits_BT: torch.Tensor, labels_BT: torch.Tensor, bins: int) -> torch.Tensor:
    """Each row's index into a histogram of shape (2, T, `bins`) laid out flat. int64."""
    num_tasks = logits_BT.shape[1]
    task_T = torch.arange(num_tasks, device=logits_BT.device)

    # Clamped as floats: the conversion to integers would wrap huge logits around.
    inside_BT = (logits_BT / LOGIT_RANGE).clamp(-1, 1).nan_to_num()
    bin_BT = ((inside_BT + 1) * (bins / 2)).long()
    bin_BT.clamp_max_(bins - 1)

    is_positive_BT = (labels_BT > 0.5).long()
    return (is_positive_BT * num_tasks + task_T) * bins + bin_BT


def _binary(sums: Sequence[float], histogram_2H: torch.Tensor) -> Metrics:
    """Metrics of a binary task from its sums, in the order of `MetricSums.NAMES`."""
    examples, weight, loss, prediction, label, _ = sums
    if weight == 0 or not math.isfinite(loss):
        return Metrics(int(examples), weight)

    log_loss = loss / weight
    label_mean = label / weight
    calibration = prediction / label if label > 0 else None
    metrics = Metrics(
        examples=int(examples),
        weight=weight,
        log_loss=log_loss,
        calibration=calibration,
        prediction_mean=prediction / weight,
        label_mean=label_mean,
    )

    # The histogram tells exactly whether both labels occur; the rate is a rounded sum, and may miss 1 by a little.
    auc, tied = area_under_curve(histogram_2H)
    if auc is None or tied is None:
        return metrics

    ne = normalized_entropy(log_loss, label_mean)
    return replace(metrics, ne=ne, auc=auc, auc_error=tied / 2)


def _regression(sums: Sequence[float]) -> Metrics:
    """Metrics of a regression task from its sums, in the order of `MetricSums.NAMES`."""
    examples, weight, loss, prediction, label, label_squared = sums
    if weight == 0 or not math.isfinite(loss):
        return Metrics(int(examples), weight)

    mse = loss / weight
    label_mean = label / weight
    variance = label_squared / weight - label_mean**2
    has_variance = variance > ROUNDING * label_squared / weight
    nmse = mse / variance if has_variance else None

    return Metrics(
        examples=int(examples),
        weight=weight,
        mse=mse,
        nmse=nmse,
        prediction_mean=prediction / weight,
        label_mean=label_mean,
    )
