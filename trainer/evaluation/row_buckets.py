"""Which bucket each test row is in: `evaluate.unit`.

Rows of one user are not independent: a model that suits a user does better on all of them. If single rows were drawn
with replacement, that would be lost, and the intervals of comparisons would be too narrow. With a unit, rows that share
its value share a bucket, and are drawn together.

    rows taken as independent     bucket = hash of the row's number
    up to 1,024 units             each unit has a bucket of its own
    more units                    bucket = hash of the unit

A row without a value is a unit of its own, since nothing says that it belongs with others.

Shapes: B rows of a batch, R rows of a row group.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from data.columns.texts import hash_texts
from data.hashing import Int64, fold, mix
from data.manifest import Manifest
from trainer.distributed.world import World
from trainer.evaluation.row_values import RowValues

BUCKETS = 1024
_OF_ROWS = np.uint64(0x5BF0_3635_DCF9_8B1D)
"""Mixed into the numbers of rows without a value, so that they do not coincide with ids that are small integers."""


@dataclass(frozen=True)
class Bucketing:
    """How test rows fall into buckets; alike on all ranks, and in every run on the same test set."""

    unit: str | None
    """Column whose values keep rows together; None: rows are taken as independent."""
    count: int
    """Number of buckets."""
    of: Callable[[torch.Tensor], torch.Tensor]
    """Buckets of rows by their row ids; padding may be in any. Raises DataError if the column cannot be read."""


def bucket_of(row_ids_B: torch.Tensor) -> torch.Tensor:
    """Buckets of rows by their number in the test set: 64-bit multiplications that wrap, as a hash."""
    mixed_B = (row_ids_B + 1) * -7046029254386353131  # 2^64 / golden ratio
    mixed_B = (mixed_B ^ (mixed_B >> 32)) * -4658895280553007687
    return (mixed_B >> 40) & (BUCKETS - 1)


def bucket_rows(unit: str | None, manifest: Manifest, lanes: int, world: World) -> Bucketing:
    """How the rows of a test set fall into buckets. Collective: call on all ranks."""
    if unit is None:
        return Bucketing(None, BUCKETS, bucket_of)

    values = RowValues(unit, manifest, lanes, unit_codes)
    few_codes = _few_units(values, len(manifest.rows), world)
    count = BUCKETS if few_codes is None else len(few_codes)

    def buckets_of(row_ids_B: torch.Tensor) -> torch.Tensor:
        codes_B = values.codes_of(row_ids_B.cpu().numpy(), padding=0)
        buckets_B = fold(codes_B, BUCKETS) if few_codes is None else np.searchsorted(few_codes, codes_B)

        # The code of padding may sort behind the last unit, which has no bucket there.
        return torch.from_numpy(buckets_B % count).to(row_ids_B.device)

    return Bucketing(unit, count, buckets_of)


def _few_units(values: RowValues, num_groups: int, world: World) -> Int64 | None:
    """The codes of all units, ascending; None if there are more units than buckets. Collective: call on all ranks."""

    def read_share() -> set[int]:
        codes: set[int] = set()
        for group in range(world.rank, num_groups, world.size):
            codes.update(np.unique(values.codes_of_group(group)).tolist())
            if len(codes) > BUCKETS:
                break
        return codes

    # Each rank reads a share of the row groups. An unreadable one must end all ranks before they gather.
    codes_of_ranks = world.gather(world.raise_on_all_ranks(read_share))
    all_codes = set[int]().union(*codes_of_ranks)
    if len(all_codes) > BUCKETS:
        return None

    return np.array(sorted(all_codes), np.int64)


def unit_codes(values: pa.ChunkedArray, first_row: int) -> Int64:
    """A 64-bit code for each value (R): an integer itself, the bits of a float, the hash of a text.

    A missing value, or NaN, gets a code made from the row's number in the dataset.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)

    if pa.types.is_floating(values.type):
        missing = pa.scalar(None, values.type)
        values = pc.if_else(pc.is_nan(values), missing, values)

    is_missing_R = values.is_null().to_numpy()

    stop = first_row + len(values)
    rows_R = np.arange(first_row, stop, dtype=np.uint64)
    codes_R = mix(rows_R ^ _OF_ROWS).view(np.int64)
    codes_R[~is_missing_R] = _codes(values.drop_null())

    return codes_R


def _codes(values: pa.ChunkedArray) -> Int64:
    """Codes of values that are not missing."""
    if pa.types.is_floating(values.type):
        # Adding 0.0 turns -0.0 into 0.0: equal numbers must have equal bits.
        floats = values.cast(pa.float64()).to_numpy() + 0.0
        return floats.view(np.int64)

    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        return np.asarray(values.cast(pa.int64(), safe=False).to_numpy())

    # Each distinct text is hashed once.
    encoded = values.combine_chunks().dictionary_encode()
    hashes = hash_texts(encoded.dictionary)
    return hashes[encoded.indices.to_numpy()]
