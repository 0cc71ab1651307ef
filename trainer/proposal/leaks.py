"""Columns that alone tell a label almost perfectly: outcomes, as a rule, not known when one has to predict."""

import numpy as np

from data.columns.decode import plain_column
from data.columns.numbers import Float64, read_exactly
from data.profile.dataset import DatasetProfile

ALMOST = 0.97
"""AUC of a column's numbers from which on it is called a leak; of an honest feature alone it is far below."""
_FEWEST = 20
"""Positives, and negatives, of the sample that a judgement takes."""


def leaks(profile: DatasetProfile, labels: list[str]) -> dict[str, str]:
    """By column: which label it tells, and how well."""
    sample = profile.sample.table
    found: dict[str, str] = {}
    for label in labels:
        label_R = read_exactly(plain_column(sample, label))
        for path, column in profile.columns.items():
            if path == label or column.is_list or column.kind not in ("integer", "number"):
                continue
            auc = _auc(read_exactly(plain_column(sample, path)), label_R)
            if auc is not None and max(auc, 1 - auc) >= ALMOST:
                found[path] = f"alone it tells {label!r} with an AUC of {max(auc, 1 - auc):.3f}"
    return found


def _auc(scores_R: Float64, label_R: Float64) -> float | None:
    """Of rows that have both; missing scores count as a value of their own, below all others."""
    scores_R = np.where(np.isnan(scores_R), -np.inf, scores_R)
    is_known_R = np.isfinite(label_R)
    positive_R = label_R[is_known_R] == 1
    num_positive = int(positive_R.sum())
    num_negative = len(positive_R) - num_positive
    if min(num_positive, num_negative) < _FEWEST:
        return None
    # Equal scores share the mean of their ranks.
    _, places_R, counts = np.unique(scores_R[is_known_R], return_inverse=True, return_counts=True)
    ranks_R = (np.cumsum(counts) - (counts - 1) / 2)[places_R]
    return float((ranks_R[positive_R].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))
