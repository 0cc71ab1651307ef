"""Metrics for every value of a column: `evaluate.by`.

The column is read apart from the batches, row group by row group, and looked up by the rows' numbers: evaluation goes
through the test set as stored, so that a rank needs a row group for each of its lanes at a time.

Shapes: B rows, T tasks.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from data.errors import DataError
from data.manifest import Manifest
from data.stream import damage_named, read_row_group
from models.ranker import Outcome
from trainer.metrics import Metrics, MetricSums, histogram_places
from trainer.world import World

MOST_VALUES = 1000
FIRST_SLOTS = 16
BINS = 1 << 12
"""Fewer histogram bins than for the whole set, since there are many values; `auc_error` says what that costs."""


def is_groupable(kind: pa.DataType) -> bool:
    """Whether a column of this type has values that metrics can be given for: numbers, booleans, text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or is_text)


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
    """The sums for each value of one column that this rank has met; V slots, of which the last stays empty."""

    def __init__(self, column: str, manifest: Manifest, is_binary_T: torch.Tensor, lanes: int) -> None:
        self._column, self._manifest, self._is_binary_T = column, manifest, is_binary_T
        self._slots: dict[Any, int] = {}
        """By value, in the order in which this rank has met them."""
        self._sums, self._histogram_V2TH = self._empty(FIRST_SLOTS)
        self._read = lru_cache(maxsize=lanes + 1)(self._read_group)

    def update(self, outcome: Outcome) -> None:
        """Adds the rows of a batch; DataError where the column has too many values."""
        numbers_B = outcome.numbers_B.cpu().numpy()
        slots_B = torch.from_numpy(self._slots_of(numbers_B))  # first: it may ask for room
        slot_B = slots_B.to(outcome.logits_BT.device)
        is_row_B1 = outcome.numbers_B[:, None] >= 0
        labels_BT, weights_BT = outcome.labels_BT, outcome.weights_BT * is_row_B1
        self._sums.update(outcome.logits_BT, labels_BT, weights_BT, slot_B)
        num_places = 2 * len(self._is_binary_T) * BINS
        place_BT = histogram_places(outcome.logits_BT.double(), labels_BT, BINS) + slot_B[:, None] * num_places
        self._histogram_V2TH.view(-1).index_add_(0, place_BT.view(-1), weights_BT.double().view(-1))

    def compute(self, world: World) -> dict[Any, list[Metrics]]:
        """Metrics of each task by value, over all ranks. Collective: call on all ranks."""
        met = {value for values in world.gather(list(self._slots)) for value in values}
        _check_number(self._column, self._manifest, len(met))
        values = sorted(met, key=lambda value: (value is None, value))
        result = {}
        for value in values:
            slot = self._slots.get(value, -1)
            sums = MetricSums(self._is_binary_T, bins=BINS)
            sums.sums_6TK[:, :, 0] = self._sums.sums_6TK[:, :, slot]
            sums.histogram_2TH.copy_(self._histogram_V2TH[slot])
            for tensor in sums.tensors:
                world.sum(tensor)
            result[value] = sums.compute()
        return result

    def _empty(self, slots: int) -> tuple[MetricSums, torch.Tensor]:
        num_tasks, device = len(self._is_binary_T), self._is_binary_T.device
        histogram_V2TH = torch.zeros(slots, 2, num_tasks, BINS, dtype=torch.float64, device=device)
        return MetricSums(self._is_binary_T, slots, bins=1), histogram_V2TH

    def _make_room(self, slots: int) -> None:
        """Makes this many slots, with what has been summed so far."""
        sums, histogram_V2TH = self._empty(slots)
        before = len(self._histogram_V2TH)
        sums.sums_6TK[:, :, :before] = self._sums.sums_6TK
        histogram_V2TH[:before] = self._histogram_V2TH
        self._sums, self._histogram_V2TH = sums, histogram_V2TH

    def _slots_of(self, numbers_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slot of each row's value; the empty one for padding."""
        first_row = self._manifest.first_row
        group_B = np.searchsorted(first_row, numbers_B, side="right") - 1
        slot_B = np.full(len(numbers_B), -1)
        for group in np.unique(group_B[numbers_B >= 0]):
            chosen = (group_B == group) & (numbers_B >= 0)
            slot_B[chosen] = self._read(int(group))[numbers_B[chosen] - first_row[group]]
        if len(self._slots) >= len(self._histogram_V2TH):
            self._make_room(2 * len(self._slots))
        slot_B[slot_B < 0] = len(self._histogram_V2TH) - 1
        return slot_B

    def _read_group(self, group: int) -> NDArray[np.int64]:
        """The slot of every row of a row group."""
        table = read_row_group(self._manifest, group, [self._column])
        with damage_named(self._manifest, group):  # bytes that are no UTF-8 come to light only here
            values = table[self._column].to_pylist()
        slots = np.empty(len(values), np.int64)
        for row, value in enumerate(values):
            slots[row] = self._slots.setdefault(None if value != value else value, len(self._slots))
        _check_number(self._column, self._manifest, len(self._slots))
        return slots
