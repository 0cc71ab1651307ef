"""The proof of an export: rows of the log through the run's own model, and through the folder in a process apart.

    rows as stored ─► Parquet file ─► decoded, sharded model ─► predictions ┐
                  └─► JSON lines ─► score.py of the export ─► predictions ──┴► largest difference

Shapes: R rows, T tasks.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.columns.decode import decode
from data.columns.ids import Jagged
from data.columns.numbers import Float32, Float64
from data.discovery.source import source_of
from data.hashing import Int64
from models.tasks import TaskConfig
from trainer.build_model import ShardedModel
from trainer.checkpoint.trained_run import TrainedRun
from trainer.datasets import build_columns, open_manifest, test_reading
from trainer.errors import RunError
from trainer.export.rows import raw_rows, take_rows, write_rows
from trainer.prediction.predict import score, without_labels

BATCH = 1024
EXAMPLES = 100
TOLERANCE = 1e-6


class _Collected:
    """A lane's predictions, in memory."""

    def __init__(self) -> None:
        self._parts: list[Float32] = []

    def add(self, row_ids_R: Int64, predictions_RT: Float32) -> None:  # noqa: ARG002
        self._parts.append(predictions_RT)

    def finish(self) -> None:
        """There is nothing to complete."""

    @property
    def predictions(self) -> Float32:
        """predictions_RT."""
        return np.concatenate(self._parts)


def predict(trained: TrainedRun, sharded: ShardedModel, rows: list[pa.Table]) -> Float32:
    """predictions_RT of the run's own model."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "rows"
        write_rows(folder, rows)
        config = without_labels(trained.config)
        reading = test_reading(config, open_manifest(source_of(str(folder))), 1, trained.vocabularies)
        collected = _Collected()
        score(trained.config, trained.world, sharded, replace(reading, global_batch_size=BATCH), [collected])
    return collected.predictions


def scored_apart(folder: Path, rows: list[pa.Table], tasks: tuple[TaskConfig, ...]) -> Float64:
    """predictions_RT of the export, whose score.py runs in a process of its own; raises RunError if it fails."""
    lines = "".join(json.dumps(row) + "\n" for row in raw_rows(rows))
    command = [sys.executable, "-E", "-s", "-B", "-X", "utf8", "score.py"]
    done = subprocess.run(command, input=lines, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"the export cannot score rows of the test set ({last}); it was not written")
    scored = [json.loads(line) for line in done.stdout.splitlines()]
    return np.array([[row[task.name] for task in tasks] for row in scored], np.float64).reshape(-1, len(tasks))


def largest_difference(served_RT: Float64, predicted_RT: Float32) -> float:
    """Of a pair of predictions; for values beyond 1 relative to them. NaN is unlike all but NaN."""
    scale_RT = np.maximum(1, np.abs(predicted_RT))
    with np.errstate(invalid="ignore"):
        difference_RT = np.abs(served_RT - predicted_RT) / scale_RT
    difference_RT[np.isnan(served_RT) & np.isnan(predicted_RT)] = 0
    return float(np.max(np.nan_to_num(difference_RT, nan=np.inf), initial=0))


def write_examples(path: Path, trained: TrainedRun, rows: list[pa.Table], served_RT: Float64) -> None:
    """Some of the rows, a line each: raw values, the ids and numbers that training makes of them, the predictions."""
    num_rows = len(served_RT)
    places = np.unique(np.linspace(0, num_rows - 1, min(EXAMPLES, num_rows)).astype(np.int64))
    columns = build_columns(without_labels(trained.config), trained.vocabularies)
    tasks = [task.name for task in trained.config.tasks]
    names = [feature.name for feature in trained.config.features.sparse]
    predictions = iter(served_RT[places].tolist())
    with path.open("w", encoding="utf-8") as file:
        for examples in take_rows(rows, places):
            decoded = decode(examples, columns, lambda row: f"example {row}")
            for number, row in enumerate(raw_rows([examples])):
                example = {
                    "row": row,
                    "ids": {name: _of_row(entry, number) for name, entry in zip(names, decoded.ids, strict=True)},
                    "dense": decoded.dense_RD[number].tolist(),
                    "predictions": dict(zip(tasks, next(predictions), strict=True)),
                }
                file.write(json.dumps(example) + "\n")


def _of_row(ids: Jagged, row: int) -> list[int]:
    if ids.offsets is None:
        return [int(ids.values[row])]
    found: list[int] = ids.values[ids.offsets[row] : ids.offsets[row + 1]].tolist()
    return found
