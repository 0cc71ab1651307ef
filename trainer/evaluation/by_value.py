"""Metrics for every value of a column: `evaluate.by`.

The values are not known beforehand. Each rank gives the values that it sees slots in the order of their appearance, and
sums in slots; only at the end do the ranks agree on the values.

    column of the test set   a b a c …    slots of this rank   a: 0, b: 1, c: 2, (empty), …
                                          sums_6TV             V slots, twice as many whenever they are used up

Shapes: B rows, T tasks, V slots, N rows of this rank, H histogram bins.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from data.errors import DataError
from data.hashing import Int64
from data.manifest import Manifest
from data.pipeline.row_groups import read_row_group
from models.ranker import StepOutput
from trainer.distributed.world import World
from trainer.evaluation.accumulator import Accumulator
from trainer.evaluation.auc import ExactAuc
from trainer.evaluation.metrics import Metrics, MetricSums, histogram_places
from trainer.evaluation.row_values import RowValues

MOST_VALUES = 1000
FIRST_SLOTS = 16
BINS = 1 << 12
"""Of histograms, if AUC is not exact: fewer than for the whole set, since there are many values."""


def check_first_values(column: str, manifest: Manifest) -> None:
    """Raises DataError if the first row group alone holds too many values of the column.

    Called before training begins: the first evaluation may be days away.
    """
    values = read_row_group(manifest, 0, [column])[column]
    _check_number(column, manifest, len(values.unique()))


def _check_number(column: str, manifest: Manifest, num_values: int) -> None:
    if num_values > MOST_VALUES:
        raise DataError(
            f"evaluate.by: column {column!r} of {manifest.uri} has more than {MOST_VALUES} values; choose one with few"
        )


class MetricsByValue(Accumulator[dict[Any, list[Metrics]]]):
    """Metrics of each task for each value of one column. The last slot stays empty: padding is added there."""

    reads_columns = True

    def __init__(
        self, column: str, manifest: Manifest, is_binary_T: torch.Tensor, lanes: int, exact: ExactAuc | None = None
    ) -> None:
        """`exact` must be updated with the same steps; without it, AUC comes from a histogram for each value."""
        self._column = column
        self._manifest = manifest
        self._is_binary_T = is_binary_T
        self._values = RowValues(column, manifest, lanes, self._encode)
        self._slots: dict[Any, int] = {}
        """By value, in the order in which this rank has seen them."""

        self._bins = BINS if exact is None else 1
        self._sums, self._histogram_V2TH = self._empty(FIRST_SLOTS)

        self._exact = exact
        num_rows = exact.num_rows if exact is not None else 0
        self._slot_N = torch.zeros(num_rows, dtype=torch.int64, device=is_binary_T.device)
        """Of each row, in the order of the rows that `exact` keeps."""
        self._rows_so_far = 0

    def update(self, step: StepOutput) -> None:
        """Adds the rows of a step; raises DataError if the column has too many values, or cannot be read."""
        slot_B = self._slots_of(step.row_ids_B)
        is_row_B = step.row_ids_B >= 0
        weights_BT = step.weights_BT * is_row_B[:, None]
        self._sums.add(step.logits_BT, step.labels_BT, weights_BT, slot_B)

        # One histogram of shape (2, T, H) for each slot, end to end: a single scatter fills all of them.
        histogram_size = 2 * len(self._is_binary_T) * self._bins
        place_BT = histogram_places(step.logits_BT.double(), step.labels_BT, self._bins)
        place_BT = place_BT + slot_B[:, None] * histogram_size
        flat_histogram = self._histogram_V2TH.view(-1)
        flat_weights = weights_BT.double().view(-1)
        flat_histogram.index_add_(0, place_BT.view(-1), flat_weights)

        if self._exact is not None:
            stop = self._rows_so_far + len(slot_B)
            rows = slice(self._rows_so_far, stop)
            self._slot_N[rows] = torch.where(is_row_B, slot_B, 0)
            self._rows_so_far = stop

    def compute(self, world: World) -> dict[Any, list[Metrics]]:
        """Metrics of each task by value, over all ranks, missing values last. Collective: call on all ranks."""
        # Ranks have seen different values in different orders. Agreeing on one sorted list makes all of them add up
        # the same values in the same order below.
        values_of_ranks = world.gather(list(self._slots))
        all_values = {value for values in values_of_ranks for value in values}
        _check_number(self._column, self._manifest, len(all_values))
        values = sorted(all_values, key=lambda value: (value is None, value))

        aucs = {}
        if self._exact is not None:
            index_N = self._index_of_rows(values)
            aucs = self._exact.compute_by(world, index_N, len(values))

        result = {}
        for index, value in enumerate(values):
            metrics = self._metrics_of(value, world)
            for task, aucs_of_values in aucs.items():
                auc = aucs_of_values[index]
                error = None if auc is None else 0.0
                metrics[task] = replace(metrics[task], auc=auc, auc_error=error)

            result[value] = metrics

        return result

    def _metrics_of(self, value: Any, world: World) -> list[Metrics]:
        """Metrics of one value. Collective, also for a rank that has not seen it: that adds its empty slot."""
        slot = self._slots.get(value, -1)
        sums_6T = self._sums.sums_6TK[:, :, slot]

        sums = MetricSums(self._is_binary_T, bins=self._bins)
        sums.sums_6TK[:, :, 0] = sums_6T
        sums.histogram_2TH.copy_(self._histogram_V2TH[slot])
        sums.add_over_ranks(world)

        return sums.compute()

    def _index_of_rows(self, values: list[Any]) -> torch.Tensor:
        """The index in `values` of each row's value (N)."""
        index_of_value = {value: index for index, value in enumerate(values)}
        # A rank without any row still needs one entry, since padding is looked up in slot 0.
        index_of_slot = [index_of_value[value] for value in self._slots] or [0]
        return torch.tensor(index_of_slot, device=self._slot_N.device)[self._slot_N]

    def _empty(self, num_slots: int) -> tuple[MetricSums, torch.Tensor]:
        """Sums with a bucket for each slot, and a histogram for each slot."""
        num_tasks = len(self._is_binary_T)
        device = self._is_binary_T.device
        shape = (num_slots, 2, num_tasks, self._bins)
        histogram_V2TH = torch.zeros(shape, dtype=torch.float64, device=device)
        return MetricSums(self._is_binary_T, num_slots, bins=1), histogram_V2TH

    def _make_room(self, num_slots: int) -> None:
        """Makes this many slots, with what has been summed so far."""
        sums, histogram_V2TH = self._empty(num_slots)
        before = len(self._histogram_V2TH)
        sums.sums_6TK[:, :, :before] = self._sums.sums_6TK
        histogram_V2TH[:before] = self._histogram_V2TH
        self._sums = sums
        self._histogram_V2TH = histogram_V2TH

    def _slots_of(self, row_ids_B: torch.Tensor) -> torch.Tensor:
        """The slot of each row's value; the empty one for padding."""
        slot_B = self._values.codes_of(row_ids_B.cpu().numpy(), padding=-1)
        # Reading the values may have used up the slots, and the last one must stay empty.
        if len(self._slots) >= len(self._histogram_V2TH):
            self._make_room(2 * len(self._slots))
        slot_B[slot_B < 0] = len(self._histogram_V2TH) - 1
        return torch.from_numpy(slot_B).to(row_ids_B.device)

    def _encode(self, values: pa.ChunkedArray, _: int) -> Int64:
        """The slot of every row of a row group; a new value gets the next slot."""
        slots = np.empty(len(values), np.int64)
        for row, value in enumerate(values.to_pylist()):
            # NaN, which differs from itself, counts as missing.
            key = None if value != value else value
            next_slot = len(self._slots)
            slots[row] = self._slots.setdefault(key, next_slot)

        _check_number(self._column, self._manifest, len(self._slots))
        return slots
