"""AUC within groups of rows, such as those of one user: `evaluate.group_by`.

A ranker orders the items of one user at a time, so that pairs of rows of two users do not matter to it. Grouped AUC
(Zhou et al., KDD 2018, section 4.1: weighted by impressions) leaves them out. With the AUC and the weight W of each
group g, over the groups that hold a positive and a negative row:

    gauc       = Σ W_g · AUC_g / Σ W_g        W_g: the sum of the group's row weights; tied logits count one half
    gauc_share = Σ W_g / weight of all rows

A row without a value (null, NaN) is in no group; its weight is in that of all rows alone. Groups are told apart by
64-bit codes: an integer is its own, a text has its hash. Two of 100 million texts share one with a chance of 0.03 %.

Rows of a group are spread over the ranks. So each row is sent to the rank that its code says, which then has its
groups as a whole:

    rows of this rank ── by fold(code) ──► all-to-all ──► sort by (code, logit) ──► sums over groups ──► all-reduce

Memory, on the host, for each row of this rank: 8 bytes, and 8 for each binary task. While a task is computed, another
60 at most for each row that this rank sends or receives: it receives an equal share, unless few groups hold most rows.

Shapes: B rows of a batch, N rows of this rank, M rows that this rank has received, R rows of a group, T tasks, D binary
tasks, G groups.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from data.compiled import compiled
from data.hashing import Int64, fold
from data.manifest import Manifest
from models.ranker import StepOutput
from trainer.distributed.world import World
from trainer.evaluation.accumulator import Accumulator, TaskValues
from trainer.evaluation.auc import signed_weights
from trainer.evaluation.row_buckets import unit_codes
from trainer.evaluation.row_values import RowValues

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class GroupedAuc(Accumulator[list[TaskValues]]):
    """Grouped AUC of the binary tasks from the codes, logits, labels and weights of all rows, kept on the host."""

    reads_columns = True

    def __init__(self, column: str, manifest: Manifest, is_binary_T: torch.Tensor, lanes: int, num_rows: int) -> None:
        """`num_rows`: this rank's share of all batches, padding included."""
        self._num_tasks = len(is_binary_T)
        self._tasks_D = is_binary_T.nonzero()[:, 0]
        """Indices of the binary tasks."""
        self._values = RowValues(column, manifest, lanes, unit_codes)
        self._codes_N = np.zeros(num_rows, np.int64)

        shape = (len(self._tasks_D), num_rows)
        self._logits_DN = np.zeros(shape, np.float32)
        self._weights_DN = np.zeros(shape, np.float32)
        """Below 0 for negatives; 0 for rows that do not count."""
        self._rows_so_far = 0

    def update(self, step: StepOutput) -> None:
        """Keeps the rows of a step; raises DataError if the column cannot be read. Waits for the device."""
        stop = self._rows_so_far + len(step.logits_BT)
        rows = slice(self._rows_so_far, stop)
        self._rows_so_far = stop

        row_ids_B = step.row_ids_B.cpu().numpy()
        self._codes_N[rows] = self._values.codes_of(row_ids_B, padding=0)

        logits_BD = step.logits_BT[:, self._tasks_D]
        weights_BD = signed_weights(step)[:, self._tasks_D]
        self._logits_DN[:, rows] = logits_BD.t().cpu().numpy()
        self._weights_DN[:, rows] = weights_BD.t().cpu().numpy()

    def compute(self, world: World) -> list[TaskValues]:
        """`gauc` and `gauc_share` of each binary task. Collective: call on all ranks."""
        values: list[TaskValues] = [{} for _ in range(self._num_tasks)]
        # One task after the other, so that only the rows of one are on their way.
        for index, task in enumerate(self._tasks_D.tolist()):
            sums_3 = torch.from_numpy(_sums(*self._exchanged(index, world)))
            values[task] = _values_of(*world.sum(sums_3).tolist())

        return values

    def _exchanged(self, index: int, world: World) -> tuple[Int64, Float32, Float32]:
        """Codes, logits and weights (M) of the rows that count for a task, of this rank's groups. Collective."""
        counts_N = self._weights_DN[index] != 0
        rank_of_rows = fold(self._codes_N[counts_N], world.size)
        rows = np.flatnonzero(counts_N)[rank_of_rows.argsort(kind="stable")]
        rows_for_rank = np.bincount(rank_of_rows, minlength=world.size).tolist()

        sent = (self._codes_N, self._logits_DN[index], self._weights_DN[index])
        codes_M, logits_M, weights_M = (
            world.exchange(torch.from_numpy(values_N[rows]), rows_for_rank).numpy() for values_N in sent
        )
        return codes_M, logits_M, weights_M


def _values_of(area: float, weight: float, weight_of_all: float) -> TaskValues:
    """A task's values from its sums over all ranks."""
    if weight_of_all == 0 or not math.isfinite(area):
        return {"gauc": None, "gauc_share": None}

    gauc = area / weight if weight > 0 else None
    return {"gauc": gauc, "gauc_share": weight / weight_of_all}


def _sums(codes_M: Int64, logits_M: Float32, weights_M: Float32) -> Float64:
    """Σ weight x AUC and Σ weight over the groups that have an AUC, and the weight of all rows (3).

    Predictions that are not finite have no AUC, as they have no other metric: the sums are then NaN.
    """
    if not np.isfinite(logits_M).all():
        return np.full(3, np.nan)

    order = np.lexsort((logits_M, codes_M))
    codes_M = codes_M[order]
    stop_G = np.flatnonzero(np.diff(codes_M)) + 1
    stop_G = np.append(stop_G, len(codes_M))

    return _sums_over_groups(stop_G, logits_M[order], weights_M[order])


@compiled
def _sums_over_groups(stop_G: Int64, logits_M: Float32, weights_M: Float32) -> Float64:
    """The sums of `_sums` over groups that lie end to end, by the row behind the last one of each."""
    sums_3 = np.zeros(3)
    start = 0

    for stop in stop_G:
        area, weight = _area(logits_M[start:stop], weights_M[start:stop])
        sums_3[2] += weight
        if area >= 0:
            sums_3[0] += weight * area
            sums_3[1] += weight
        start = stop

    return sums_3


@compiled
def _area(logits_R: Float32, weights_R: Float32) -> tuple[float, float]:
    """AUC and weight of a group's rows, in ascending order of the logit; AUC is -1 without both labels.

    A group is summed on its own in float64, so that its AUC is as exact in a billion rows as alone.
    """
    negatives = 0.0
    positives = 0.0
    won = 0.0
    row = 0

    while row < len(logits_R):
        logit = logits_R[row]
        tied_negatives = 0.0
        tied_positives = 0.0
        while row < len(logits_R) and logits_R[row] == logit:
            weight = np.float64(weights_R[row])
            if weight > 0:
                tied_positives += weight
            else:
                tied_negatives -= weight
            row += 1

        # A positive wins against every negative whose logit is lower, and half against those at its own.
        won += tied_positives * (negatives + tied_negatives / 2)
        negatives += tied_negatives
        positives += tied_positives

    pairs = negatives * positives
    area = won / pairs if pairs > 0 else -1.0
    return area, negatives + positives
