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
from trainer.metrics import Metrics, MetricSums
from trainer.world import World

MOST_VALUES = 1000
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
    """The sums for each value of one column that this rank has met."""

    def __init__(self, column: str, manifest: Manifest, is_binary_T: torch.Tensor, lanes: int) -> None:
        self._column, self._manifest, self._is_binary_T = column, manifest, is_binary_T
        self._sums: dict[Any, MetricSums] = {}
        self._read = lru_cache(maxsize=lanes + 1)(self._read_group)

    def update(self, outcome: Outcome) -> None:
        """Adds the rows of a batch; DataError where the column has too many values."""
        rows = np.flatnonzero(outcome.numbers_B.cpu().numpy() >= 0)
        values = self._values(outcome.numbers_B.cpu().numpy()[rows])
        for value in dict.fromkeys(values.tolist()):
            chosen = torch.from_numpy(rows[values == value] if value is not None else rows[values == None])  # noqa: E711
            chosen = chosen.to(outcome.logits_BT.device)
            _check_number(self._column, self._manifest, len({*self._sums, value}))
            sums = self._sums.setdefault(value, MetricSums(self._is_binary_T, bins=BINS))
            sums.update(outcome.logits_BT[chosen], outcome.labels_BT[chosen], outcome.weights_BT[chosen])

    def compute(self, world: World) -> dict[Any, list[Metrics]]:
        """Metrics of each task by value, over all ranks. Collective: call on all ranks."""
        met = {value for values in world.gather(list(self._sums)) for value in values}
        _check_number(self._column, self._manifest, len(met))
        result = {}
        for value in sorted(met, key=lambda value: (value is None, value)):
            sums = self._sums.get(value) or MetricSums(self._is_binary_T, bins=BINS)
            for tensor in sums.tensors:
                world.sum(tensor)
            result[value] = sums.compute()
        return result

    def _values(self, numbers_B: NDArray[np.int64]) -> NDArray[np.object_]:
        first_row = self._manifest.first_row
        group_B = np.searchsorted(first_row, numbers_B, side="right") - 1
        values_B = np.empty(len(numbers_B), object)
        for group in np.unique(group_B):
            chosen = group_B == group
            values_B[chosen] = self._read(int(group))[numbers_B[chosen] - first_row[group]]
        return values_B

    def _read_group(self, group: int) -> NDArray[np.object_]:
        table = read_row_group(self._manifest, group, [self._column])
        with damage_named(self._manifest, group):  # bytes that are no UTF-8 come to light only here
            values = table[self._column].to_pylist()
        result = np.empty(len(values), object)
        result[:] = [None if value != value else value for value in values]
        return result
