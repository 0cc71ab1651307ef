"""Representation similarity analysis: whether the networks of two tasks find the same rows alike.

    D_t      = 1 - Pearson's correlation of the activations of two rows, for each two rows, in the network of task t
    A_{t,u}  = Spearman's correlation of D_t and D_u over all pairs of rows

(Kriegeskorte et al., Frontiers in Systems Neuroscience 2008; between tasks: Dwivedi and Roig, CVPR 2019; per depth as
the affinity of tasks: Vandenhende et al., BMVC 2020.)

Shapes: B rows, H units, T tasks, P pairs of rows.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
_DIGITS = 9
"""Behind the point, of a dissimilarity. Where only one unit of two rows is active their correlation is 1, but for the
last bits, in which equal dissimilarities would get unequal ranks."""


def dissimilarities(activations_BH: NDArray[np.floating]) -> Floats:
    """D_P of each two rows, in order of the upper triangle. A row whose units are all equal correlates with none."""
    rows_BH = np.asarray(activations_BH, np.float64)
    centred_BH = rows_BH - rows_BH.mean(axis=1, keepdims=True)
    norm_B1 = np.linalg.norm(centred_BH, axis=1, keepdims=True)
    unit_BH = np.divide(centred_BH, norm_B1, out=np.zeros_like(centred_BH), where=norm_B1 > 0)
    correlation_BB = unit_BH @ unit_BH.T
    distances_P: Floats = 1 - correlation_BB[np.triu_indices(len(rows_BH), 1)]
    return distances_P.round(_DIGITS)


def affinities(activations: Sequence[NDArray[np.floating]]) -> Floats:
    """A_TT, of activations_BH of each task on the same rows; NaN for a task that finds all pairs alike."""
    standardised_TP = np.stack([_standardised(rankdata(dissimilarities(of_task))) for of_task in activations])
    affinity_TT: Floats = standardised_TP @ standardised_TP.T
    return affinity_TT


def _standardised(values_P: Floats) -> Floats:
    """With mean 0 and length 1; NaN where all are equal."""
    centred_P = values_P - values_P.mean()
    length = np.linalg.norm(centred_P)
    return centred_P / length if length > 0 else np.full_like(centred_P, np.nan)
