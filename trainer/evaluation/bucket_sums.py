"""What an evaluation leaves for comparisons: the sums of each hash bucket of the test rows, in a Parquet file.

NE and MSE of any multiset of buckets follow from their sums, so two runs can be compared pairwise, and their difference
given an interval by resampling buckets, without any prediction being kept. A row is in the same bucket in every run:
`trainer.evaluation.test_units` says in which.

Shapes: B rows, T tasks, K buckets.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from data.storage.files import replaced
from models.tasks import TaskConfig
from trainer.errors import ConfigError
from trainer.evaluation.metrics import MetricSums

BUCKETS = 1024
Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TaskBuckets:
    """The sums of a task."""

    kind: Literal["binary", "regression"]
    sums_6K: Float64
    """Rows as `MetricSums.NAMES` says: examples, weight, loss, prediction, label, label squared."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """An evaluation."""

    samples: int
    milestones: list[str]
    """Texts of the milestones that were reached; empty at the end of training."""
    fingerprint: str
    """Of the test set."""
    tasks: dict[str, TaskBuckets]
    unit: str | None = None
    """Column whose values keep rows together (`evaluate.unit`); None: rows are taken as independent."""
    run: str | None = None
    """Id of the run."""

    @property
    def by(self) -> str:
        """What the buckets hold, for messages."""
        return "with rows taken as independent" if self.unit is None else f"by unit {self.unit!r}"


def bucket_of(row_ids_B: torch.Tensor) -> torch.Tensor:
    """Buckets of rows by their number in the test set: 64-bit multiplications that wrap, as a hash."""
    mixed_B = (row_ids_B + 1) * -7046029254386353131  # 2^64 / golden ratio
    mixed_B = (mixed_B ^ (mixed_B >> 32)) * -4658895280553007687
    return (mixed_B >> 40) & (BUCKETS - 1)


def write_buckets(path: Path, sums: MetricSums, tasks: tuple[TaskConfig, ...], buckets: Buckets) -> None:
    """Writes the sums of all tasks but auxiliary ones, in one step; `buckets` says of which evaluation."""
    values_6TK = sums.sums_6TK.cpu().numpy()
    count = values_6TK.shape[2]
    shown = [(index, task) for index, task in enumerate(tasks) if not task.auxiliary]
    columns = {
        "task": pa.array(np.repeat([task.name for _, task in shown], count)),
        "kind": pa.array(np.repeat([task.kind for _, task in shown], count)),
        "bucket": pa.array(np.tile(np.arange(count, dtype=np.int32), len(shown))),
    }
    for row, name in enumerate(MetricSums.NAMES):
        flat = np.concatenate([values_6TK[row, index] for index, _ in shown])
        columns[name] = pa.array(flat.astype(np.int64) if name == "examples" else flat)
    metadata = {
        "samples": str(buckets.samples),
        "milestones": json.dumps(buckets.milestones),
        "test_fingerprint": buckets.fingerprint,
        "buckets": str(count),
        "unit": buckets.unit or "",
        **({"run": buckets.run} if buckets.run else {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, by_many=True) as file:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file)


def read_buckets(path: Path) -> Buckets:
    """What `write_buckets` wrote; ConfigError where it is something else, or cannot be read."""
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        tasks = {}
        for name in dict.fromkeys(table["task"].to_pylist()):
            part = table.filter(pa.compute.equal(table["task"], name)).sort_by("bucket")
            if part["bucket"].to_pylist() != list(range(int(metadata[b"buckets"]))):
                raise ValueError(f"buckets of task {name!r} are missing")
            sums_6K = np.stack([part[column].to_numpy().astype(np.float64) for column in MetricSums.NAMES])
            tasks[name] = TaskBuckets(part["kind"][0].as_py(), sums_6K)
        return Buckets(
            samples=int(metadata[b"samples"]),
            milestones=list(json.loads(metadata[b"milestones"])),
            fingerprint=metadata[b"test_fingerprint"].decode(),
            tasks=tasks,
            unit=metadata.get(b"unit", b"").decode() or None,
            run=metadata[b"run"].decode() if b"run" in metadata else None,
        )
    except PermissionError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path}: not the buckets of an evaluation ({error}); remove it: the run makes its newest ones again when "
            "it is started again"
        ) from error
