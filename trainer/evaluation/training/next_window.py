"""Progressive validation: each time window of the training data is evaluated before it is trained.

    samples   0            B            2B           3B           B samples a batch
    rows      │── window 1 ──│─── window 2 ───│─── window 3 ───
    evaluated 1            2                3                     the last batch boundary before any row of it

Windows that begin in one batch are evaluated at the same boundary, by the same model.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from data.reading import Reading
from trainer.build_model import ShardedModel
from trainer.config.run_config import Config
from trainer.datasets import test_reading
from trainer.distributed.world import World
from trainer.evaluation.evaluator import Evaluator
from trainer.run.records import Evaluation


class NextWindows:
    """The windows of a chronological training set, and the model's metrics on them."""

    def __init__(self, config: Config, world: World, sharded: ShardedModel, reading: Reading) -> None:
        """`reading`: of the training data. Collective: call on all ranks."""
        # Further columns and comparisons are those of the test set.
        evaluate = config.evaluate.model_copy(update={"by": (), "unit": None, "group_by": None})
        self._config = config.model_copy(update={"evaluate": evaluate})
        self._world = world
        self._reading = reading
        self._groups = window_groups(reading)
        self.boundaries = window_boundaries(reading)
        """Samples at which each window is evaluated, by its name; in the order of time."""
        self._evaluator = Evaluator(self._config, world, sharded, reading)

    def at(self, samples: int) -> list[str]:
        """Windows to be evaluated after so many trained samples."""
        return [name for name, boundary in self.boundaries.items() if boundary == samples]

    def evaluate(self, window: str, samples: int, between: Callable[[], None]) -> list[Evaluation]:
        """A record for each task, as `Evaluator.run` makes them. Collective: call on all ranks."""
        manifest = self._reading.manifest.of_groups(self._groups[window])
        reading = test_reading(self._config, manifest, self._world.size, self._reading.columns.vocabularies)
        # What training may leave out, its measurement may too.
        train = self._reading
        reading = replace(reading, on_bad_file=train.on_bad_file, on_bad_value=train.on_bad_value)
        result = self._evaluator.on(reading).run(samples, between)
        return [record.model_copy(update={"window": window}) for record in result.records]


def window_groups(reading: Reading) -> dict[str, np.ndarray]:
    """Row groups of each window that has rows, by its name, in the order of time."""
    manifest = reading.manifest
    groups_of_window = {}
    for window in np.unique(manifest.window):
        groups = np.flatnonzero(manifest.window == window)
        if manifest.rows[groups].any():
            groups_of_window[manifest.window_names[manifest.file[groups[0]]]] = groups
    return groups_of_window


def window_boundaries(reading: Reading) -> dict[str, int]:
    """For each window the last batch boundary before any row of it, in the first pass.

    Lanes stay within one row of each other (`data.order`): before a window with N rows behind it, the shortest has had
    N // lanes.
    """
    rows_before = 0
    boundaries = {}
    for name, groups in window_groups(reading).items():
        batches = rows_before // reading.lanes // reading.rows_per_lane
        boundaries[name] = batches * reading.global_batch_size
        rows_before += int(reading.manifest.rows[groups].sum())
    return boundaries
