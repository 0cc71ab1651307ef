"""What was wrong with the data of a window: of the samples trained since the last record of train.jsonl.

Shapes: D dense features.
"""

from collections import Counter

import numpy as np
import torch

from data.columns.decode import Columns
from data.pipeline.account import Account
from trainer.distributed.world import World


class DataWindow:
    """Counts of bad and of not finite values, by column."""

    def __init__(self, columns: Columns, account: Account, world: World) -> None:
        """`account`: of this rank."""
        self._columns = [feature.column for feature in columns.features.dense]
        self._account = account
        self._world = world
        self._not_finite_D = np.zeros(len(self._columns), np.int64)
        """Of this rank."""
        self._counts: Counter[str] = Counter()
        """Of all ranks, by key."""

    def add_bad_rows(self, column: str, rows: int) -> None:
        """Adds rows that weigh 0 for a value of a column. Call it alike on all ranks."""
        self._counts[f"bad_values/{column}"] += rows

    def counts(self, samples: int) -> dict[str, int]:
        """By key, what is not 0 in the batches before `samples`, over all ranks. Collective: call on all ranks."""
        self._not_finite_D += self._account.not_finite_until(samples)
        # Copied: the sum over ranks is made in place, and this rank goes on with its own.
        total_D = self._world.sum(torch.from_numpy(self._not_finite_D.copy())).tolist()
        counts = self._counts.copy()
        # Features of the same column have the same counts.
        for column, count in dict(zip(self._columns, total_D, strict=True)).items():
            counts[f"not_finite/{column}"] += count
        return {key: count for key, count in counts.items() if count}

    def close(self, samples: int) -> dict[str, int]:
        """The same; the next window begins. Collective: call on all ranks."""
        counts = self.counts(samples)
        self._not_finite_D[:] = 0
        self._counts.clear()
        return counts

    def restore(self, counts: dict[str, int]) -> None:
        """Goes on from the counts in a checkpoint. Call it alike on all ranks."""
        self._counts.update(counts)
