"""Which bucket each test row is in: `evaluate.unit`.

Rows of one user are not independent: a model that suits a user does better on all of them. Where single rows are drawn
with replacement that is lost, and the intervals of comparisons are too narrow. With a unit, rows that share its value
share a bucket, and are drawn together.

    rows taken as independent     bucket = hash of the row's number
    up to 1,024 units             each a bucket of its own
    more                          bucket = hash of the unit

A row without a value is a unit of its own: nothing says that it belongs with others.

Shapes: B rows of a batch, R rows of a row group.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from data.hashing import Int64, fold, hash_texts, mix
from data.manifest import Manifest
from trainer.distributed.world import World
from trainer.evaluation.bucket_sums import BUCKETS, bucket_of
from trainer.evaluation.row_values import RowValues

_OF_ROWS = np.uint64(0x5BF0_3635_DCF9_8B1D)
"""Keeps the numbers of rows without a value apart from ids that are small integers."""


@dataclass(frozen=True)
class Bucketing:
    """Buckets of the test rows; alike on all ranks and in every run on the same test set."""

    unit: str | None
    """Column whose values keep rows together; None: rows are taken as independent."""
    count: int
    of: Callable[[torch.Tensor], torch.Tensor]
    """Buckets of rows by their numbers; DataError where the column cannot be read. Padding may be in any."""


def bucket_rows(unit: str | None, manifest: Manifest, lanes: int, world: World) -> Bucketing:
    """How the rows of a test set fall into buckets. Collective: call on all ranks."""
    if unit is None:
        return Bucketing(None, BUCKETS, bucket_of)
    values = RowValues(unit, manifest, lanes, unit_codes)
    few_codes = _few_units(values, len(manifest.rows), world)

    def buckets_of(row_ids_B: torch.Tensor) -> torch.Tensor:
        codes_B = values.of(row_ids_B.cpu().numpy(), padding=0)
        buckets_B = fold(codes_B, BUCKETS) if few_codes is None else np.searchsorted(few_codes, codes_B)
        return torch.from_numpy(buckets_B % count).to(row_ids_B.device)  # padding may lie behind the last unit

    count = BUCKETS if few_codes is None else len(few_codes)
    return Bucketing(unit, count, buckets_of)


def _few_units(values: RowValues, groups: int, world: World) -> Int64 | None:
    """The codes of all units, ascending; None where there are more than buckets. Collective: call on all ranks."""

    def read() -> set[int]:
        found: set[int] = set()
        for group in range(world.rank, groups, world.size):
            found.update(np.unique(values.of_group(group)).tolist())
            if len(found) > BUCKETS:
                break
        return found

    found = set[int]().union(*world.gather(world.raise_on_all_ranks(read)))
    return np.array(sorted(found), np.int64) if len(found) <= BUCKETS else None


def unit_codes(values: pa.ChunkedArray, first_row: int) -> Int64:
    """A 64-bit number for each value (R): an integer itself, the bits of a float, the hash of a text."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    is_missing_R = values.is_null().to_numpy()
    codes_R = _codes(values.drop_null())
    rows_R = np.arange(first_row, first_row + len(values), dtype=np.uint64)
    all_codes_R = mix(rows_R ^ _OF_ROWS).view(np.int64)
    all_codes_R[~is_missing_R] = codes_R
    return all_codes_R


def _codes(values: pa.ChunkedArray) -> Int64:
    if pa.types.is_floating(values.type):
        floats = values.cast(pa.float64()).to_numpy() + 0.0  # -0.0 is 0.0
        return floats.view(np.int64)
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        return np.asarray(values.cast(pa.int64(), safe=False).to_numpy())
    encoded = values.combine_chunks().dictionary_encode()
    hashes = hash_texts(encoded.dictionary.to_pylist())
    return hashes[encoded.indices.to_numpy()]
