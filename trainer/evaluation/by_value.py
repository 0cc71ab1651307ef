"""Metrics for every value of a column: `evaluate.by`.

Shapes: B rows, T tasks.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from data.errors import DataError
from data.manifest import Manifest
from data.row_groups import read_row_group
from models.ranker import StepOutput
from trainer.distributed.world import World
from trainer.evaluation.auc import ExactAuc
from trainer.evaluation.metrics import Metrics, MetricSums, histogram_places, with_exact_auc
from trainer.evaluation.row_values import RowValues

MOST_VALUES = 1000
FIRST_SLOTS = 16
BINS = 1 << 12
"""Of histograms, where AUC is not exact: fewer than for the whole set, since there are many values."""


def check_first_values(column: str, manifest: Manifest) -> None:
    """DataError where the first row group alone holds too many values of the column: an evaluation is far off yet."""
    values = read_row_group(manifest, 0, [column])[column]
    _check_number(column, manifest, len(values.unique()))


def _check_number(column: str, manifest: Manifest, values: int) -> None:
    if values > MOST_VALUES:
        raise DataError(
            f"evaluate.by: column {column!r} of {manifest.uri} has more than {MOST_VALUES} values; choose one with few"
        )


class MetricsByValue:
    """The sums for each value of one column that this rank has seen; V slots, of which the last stays empty."""

    def __init__(
        self, column: str, manifest: Manifest, is_binary_T: torch.Tensor, lanes: int, rows: int | None = None
    ) -> None:
        """`rows` that this rank is given, padding included, where `ExactAuc` keeps them; else AUC comes from bins."""
        self._column, self._manifest, self._is_binary_T = column, manifest, is_binary_T
        self._slots: dict[Any, int] = {}
        """By value, in the order in which this rank has seen them."""
        self._bins = BINS if rows is None else 1
        self._sums, self._histogram_V2TH = self._empty(FIRST_SLOTS)
        self._values = RowValues(column, manifest, lanes, self._slots_of_values)
        self._slot_N = torch.zeros(rows or 0, dtype=torch.int64, device=is_binary_T.device)
        self._held = 0

    def update(self, output: StepOutput) -> None:
        """Adds the rows of a batch; DataError where the column has too many values."""
        row_ids_B = output.row_ids_B.cpu().numpy()
        slots_B = torch.from_numpy(self._slots_of(row_ids_B))  # first: it may ask for room
        slot_B = slots_B.to(output.logits_BT.device)
        is_row_B1 = output.row_ids_B[:, None] >= 0
        labels_BT, weights_BT = output.labels_BT, output.weights_BT * is_row_B1
        self._sums.update(output.logits_BT, labels_BT, weights_BT, slot_B)
        num_places = 2 * len(self._is_binary_T) * self._bins
        place_BT = histogram_places(output.logits_BT.double(), labels_BT, self._bins) + slot_B[:, None] * num_places
        self._histogram_V2TH.view(-1).index_add_(0, place_BT.view(-1), weights_BT.double().view(-1))
        if len(self._slot_N):
            stop = self._held + len(slot_B)
            self._slot_N[self._held : stop] = torch.where(output.row_ids_B >= 0, slot_B, 0)
            self._held = stop

    def compute(self, world: World, exact: ExactAuc | None = None) -> dict[Any, list[Metrics]]:
        """Metrics of each task by value, over all ranks; `exact` has been given the same rows.

        Collective: call on all ranks.
        """
        all_values = {value for values in world.gather(list(self._slots)) for value in values}
        _check_number(self._column, self._manifest, len(all_values))
        values = sorted(all_values, key=lambda value: (value is None, value))
        aucs = exact.compute_by(world, self._places(values), len(values)) if exact is not None else {}
        result = {}
        for place, value in enumerate(values):
            slot = self._slots.get(value, -1)
            sums = MetricSums(self._is_binary_T, bins=self._bins)
            sums.sums_6TK[:, :, 0] = self._sums.sums_6TK[:, :, slot]
            sums.histogram_2TH.copy_(self._histogram_V2TH[slot])
            for tensor in sums.tensors:
                world.sum(tensor)
            result[value] = with_exact_auc(sums.compute(), {task: auc[place] for task, auc in aucs.items()})
        return result

    def _places(self, values: list[Any]) -> torch.Tensor:
        """The place of each row's value in `values` (N)."""
        places = {value: place for place, value in enumerate(values)}
        place_of_slot = [places[value] for value in self._slots] or [0]
        return torch.tensor(place_of_slot, device=self._slot_N.device)[self._slot_N]

    def _empty(self, slots: int) -> tuple[MetricSums, torch.Tensor]:
        num_tasks, device = len(self._is_binary_T), self._is_binary_T.device
        histogram_V2TH = torch.zeros(slots, 2, num_tasks, self._bins, dtype=torch.float64, device=device)
        return MetricSums(self._is_binary_T, slots, bins=1), histogram_V2TH

    def _make_room(self, slots: int) -> None:
        """Makes this many slots, with what has been summed so far."""
        sums, histogram_V2TH = self._empty(slots)
        before = len(self._histogram_V2TH)
        sums.sums_6TK[:, :, :before] = self._sums.sums_6TK
        histogram_V2TH[:before] = self._histogram_V2TH
        self._sums, self._histogram_V2TH = sums, histogram_V2TH

    def _slots_of(self, row_ids_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slot of each row's value; the empty one for padding."""
        slot_B = self._values.of(row_ids_B, padding=-1)
        if len(self._slots) >= len(self._histogram_V2TH):
            self._make_room(2 * len(self._slots))
        slot_B[slot_B < 0] = len(self._histogram_V2TH) - 1
        return slot_B

    def _slots_of_values(self, values: pa.ChunkedArray, _: int) -> NDArray[np.int64]:
        """The slot of every row of a row group."""
        slots = np.empty(len(values), np.int64)
        for row, value in enumerate(values.to_pylist()):
            slots[row] = self._slots.setdefault(None if value != value else value, len(self._slots))
        _check_number(self._column, self._manifest, len(self._slots))
        return slots
