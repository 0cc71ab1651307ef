"""NE that would be left if predictions were right in the mean: how much of NE is calibration, and how much ranking.

The log odds x of a task are shifted by one number b, the same for all rows, fitted on the test set itself. With weight
w and label y of each row:

    loss(b)         = Σ w · (ln(1 + exp(x + b)) - y · (x + b)) / Σ w      convex in b
    loss'(b)        = 0  where  Σ w · sigmoid(x + b) = Σ w · y            the mean prediction is the positive rate
    ne_recalibrated = NE + (loss(b) - loss(0)) / entropy(positive rate)

NE itself is exact, of the rows. The difference is that of a histogram, whose rows stand in the middle of their bins, at
most h/2 = 1.2e-4 from where they are. To first order this moves a row's ln(1 + exp(x + b)) - ln(1 + exp(x)) by at most

    h/2 · |sigmoid(x + b) - sigmoid(x)|        < h/2 · |b| / 4

and in each direction equally often: in the mean of many rows the errors cancel, and what is left is of order h². Logits
beyond the histogram (± 16) change as those in its outermost bins do, but for 1e-6 with shifts of up to 2.

Shapes: H histogram bins.
"""

import torch
from torch.nn.functional import softplus

from models.losses import entropy
from trainer.evaluation.metrics import LOGIT_RANGE, Metrics, MetricSums

_HALVINGS = 40
"""Of an interval of 2 · LOGIT_RANGE: the shift is right to 3e-11, and the loss, flat there, to the last digit."""


def recalibrated_ne(sums: MetricSums, index: int, metrics: Metrics) -> float | None:
    """The NE that a shift leaves of the binary task with this index; None if it has no NE. Never above its NE."""
    if metrics.ne is None or metrics.label_mean is None:
        return None

    negative_H, positive_H = sums.histogram_2TH[:, index].cpu()
    weight_H = negative_H + positive_H
    has_rows_H = weight_H > 0
    weight_H = weight_H[has_rows_H]
    logit_H = sums.bin_logits()[has_rows_H]

    shift = _fit_shift(logit_H, weight_H, positive_H.sum(), negative_H.sum())
    change_H = softplus(logit_H + shift) - softplus(logit_H)
    change = (weight_H * change_H).sum() - positive_H.sum() * shift

    background = weight_H.sum() * entropy(metrics.label_mean)
    return metrics.ne + min(float(change / background), 0.0)


def _fit_shift(
    logit_H: torch.Tensor, weight_H: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor
) -> torch.Tensor:
    """The shift after which the predictions sum to the weight of the positives; float64, a scalar."""
    # All logits lie within ± LOGIT_RANGE, so that the shift lies this close to the log odds of the positive rate.
    middle = positives.log() - negatives.log()
    low = middle - LOGIT_RANGE
    high = middle + LOGIT_RANGE

    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        predicted = (weight_H * (logit_H + middle).sigmoid()).sum()
        if predicted < positives:
            low = middle
        else:
            high = middle

    return (low + high) / 2
