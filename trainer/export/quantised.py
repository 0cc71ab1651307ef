"""What tables of fewer bits cost: NE (MSE) of each task on the test set, with the tables as trained and as served."""

from collections.abc import Mapping

import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from data.errors import ExpectedError
from data.manifest import Manifest
from models.tables import weight_name
from trainer.build_model import ShardedModel
from trainer.checkpoint.trained_run import TrainedRun
from trainer.datasets import test_reading
from trainer.evaluation.evaluator import Evaluator
from trainer.export.tables import BLOCK_ROWS, StoredTable


def evaluate(trained: TrainedRun, sharded: ShardedModel, test: Manifest, samples: int) -> dict[str, float]:
    """NE or MSE by task."""
    reading = test_reading(trained.config, test, trained.world.size, trained.vocabularies)
    records = Evaluator(trained.config, trained.world, sharded, reading).run(samples).records
    return {record.task: record.main for record in records if record.by is None and record.main is not None}


def replace_tables(sharded: ShardedModel, tables: Mapping[str, StoredTable]) -> None:
    """Puts the tables as they are served into the model of a single process, in float32."""
    state = sharded.model.state_dict()
    for name, table in tables.items():
        tensor = state[weight_name(name)]
        (target_RE,) = (
            [shard.tensor for shard in tensor.local_shards()] if isinstance(tensor, ShardedTensor) else [tensor]
        )
        with torch.no_grad():
            for start in range(0, len(table.weight_RE), BLOCK_ROWS):
                rows = slice(start, start + BLOCK_ROWS)
                target_RE[rows] = table.floats(rows)


def check_change(before: Mapping[str, float], after: Mapping[str, float], kind: str, most: float) -> None:
    """Raises ExpectedError if a task's metric has moved by more than `most` per cent."""
    finer = "float16" if kind == "int8" else "float32"
    for task, value in before.items():
        change = 100 * abs(after[task] / value - 1) if value else 0.0
        if not change <= most:
            raise ExpectedError(
                f"--tables {kind}: moves task {task!r} from {value:.6f} to {after[task]:.6f}, by {change:.4f} %, more "
                f"than --max-ne-change {most:g}; nothing was written: allow more, or export {finer}"
            )
