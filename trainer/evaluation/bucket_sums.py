"""The sums of each bucket of the test rows: metrics of the whole set follow from them, and comparisons of runs.

NE and MSE of any multiset of buckets follow from their sums. So two runs can be compared pairwise, and their difference
given an interval by resampling buckets, without any prediction being kept. A row is in the same bucket in every run;
`trainer.evaluation.row_buckets` says in which.

    evaluation ── update, compute ──► BucketSums ──► Buckets ── write_buckets ──► RUN/evaluations/<samples>.parquet
    adatt compare ◄── read_buckets ────────────────────────────────────────────── one row per task and bucket

Shapes: B rows, T tasks, K buckets, N = T · K. The leading 6 is named in `MetricSums.NAMES`.
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
from models.ranker import StepOutput
from models.tasks import TaskConfig
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.evaluation.accumulator import Accumulator
from trainer.evaluation.metrics import Metrics, MetricSums
from trainer.evaluation.row_buckets import Bucketing

Float64 = NDArray[np.float64]


class BucketSums(Accumulator[list[Metrics]]):
    """The metrics of each task on the whole test set, from sums that are kept bucket by bucket."""

    def __init__(self, is_binary_T: torch.Tensor, bucketing: Bucketing) -> None:
        self._bucketing = bucketing
        self.reads_columns = bucketing.unit is not None
        self.sums = MetricSums(is_binary_T, bucketing.count)
        """Of this rank, and of all ranks after `compute`."""

    def update(self, step: StepOutput) -> None:
        """Adds the rows of a step; raises DataError if the column of the unit cannot be read."""
        bucket_B = self._bucketing.of(step.row_ids_B)
        self.sums.add(step.logits_BT, step.labels_BT, step.weights_BT, bucket_B)

    def compute(self, world: World) -> list[Metrics]:
        """Metrics of each task, over all ranks. Collective: call on all ranks."""
        self.sums.add_over_ranks(world)
        return self.sums.compute()


@dataclass(frozen=True, eq=False)
class TaskBuckets:
    """The sums of a task."""

    kind: Literal["binary", "regression"]
    sums_6K: Float64
    """Rows as `MetricSums.NAMES` says: examples, weight, loss, prediction, label, label squared."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """The bucket sums of one evaluation, and which evaluation they are of."""

    samples: int
    milestones: list[str]
    """Texts of the milestones that were reached; empty at the end of training."""
    fingerprint: str
    """Of the test set."""
    tasks: dict[str, TaskBuckets]
    """By the name of the task; without auxiliary tasks."""
    unit: str | None = None
    """Column whose values keep rows together (`evaluate.unit`); None: rows are taken as independent."""
    run: str | None = None
    """Id of the run."""

    @property
    def by(self) -> str:
        """What the buckets hold, for messages."""
        return "with rows taken as independent" if self.unit is None else f"by unit {self.unit!r}"


def task_buckets(sums: MetricSums, tasks: tuple[TaskConfig, ...]) -> dict[str, TaskBuckets]:
    """The sums of all tasks but auxiliary ones, by name."""
    sums_6TK = sums.sums_6TK.cpu().numpy()
    buckets = {}

    for index, task in enumerate(tasks):
        if not task.auxiliary:
            sums_6K = sums_6TK[:, index]
            buckets[task.name] = TaskBuckets(task.metric_kind, sums_6K)

    return buckets


def write_buckets(path: Path, buckets: Buckets) -> None:
    """Writes the sums of an evaluation, replacing the file in one step."""
    table = _as_table(buckets.tasks)
    num_buckets = len(table) // len(buckets.tasks)

    metadata = {
        "samples": str(buckets.samples),
        "milestones": json.dumps(buckets.milestones),
        "test_fingerprint": buckets.fingerprint,
        "buckets": str(num_buckets),
        "unit": buckets.unit or "",
    }
    # Evaluations of before runs had ids have none.
    if buckets.run:
        metadata["run"] = buckets.run

    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, by_many=True) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file)


def _as_table(tasks: dict[str, TaskBuckets]) -> pa.Table:
    """One row per task and bucket, task after task: columns task, kind, bucket, and one for each sum."""
    names = list(tasks)
    kinds = [task.kind for task in tasks.values()]
    all_sums = [task.sums_6K for task in tasks.values()]
    sums_6N = np.concatenate(all_sums, axis=1)
    num_buckets = sums_6N.shape[1] // len(tasks)
    bucket_K = np.arange(num_buckets, dtype=np.int32)

    columns = {
        "task": pa.array(np.repeat(names, num_buckets)),
        "kind": pa.array(np.repeat(kinds, num_buckets)),
        "bucket": pa.array(np.tile(bucket_K, len(tasks))),
    }
    for name, values_N in zip(MetricSums.NAMES, sums_6N, strict=True):
        columns[name] = pa.array(values_N)

    columns["examples"] = columns["examples"].cast(pa.int64())
    return pa.table(columns)


def read_buckets(path: Path) -> Buckets:
    """What `write_buckets` wrote; raises ConfigError if the file is something else or cannot be read."""
    try:
        return _parse(pq.read_table(path))
    except PermissionError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); fix its permissions") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path}: not the buckets of an evaluation ({error}); remove it: the run makes its newest ones again when "
            "it is started again"
        ) from error


def _parse(table: pa.Table) -> Buckets:
    """Raises KeyError or ValueError if it is no table of bucket sums."""
    pairs = table.schema.metadata or {}
    metadata = {key.decode(): value.decode() for key, value in pairs.items()}
    milestones = json.loads(metadata["milestones"])
    num_buckets = int(metadata["buckets"])

    names = dict.fromkeys(table["task"].to_pylist())
    tasks = {name: _read_task(table, name, num_buckets) for name in names}
    return Buckets(
        samples=int(metadata["samples"]),
        milestones=list(milestones),
        fingerprint=metadata["test_fingerprint"],
        tasks=tasks,
        unit=metadata.get("unit") or None,
        run=metadata.get("run"),
    )


def _read_task(table: pa.Table, name: str, num_buckets: int) -> TaskBuckets:
    """The sums of one task; raises ValueError if a bucket is missing."""
    is_of_task = pa.compute.equal(table["task"], name)
    rows = table.filter(is_of_task).sort_by("bucket")
    if rows["bucket"].to_pylist() != list(range(num_buckets)):
        raise ValueError(f"buckets of task {name!r} are missing")

    columns = [rows[column].to_numpy() for column in MetricSums.NAMES]
    sums_6K = np.stack(columns).astype(np.float64)
    return TaskBuckets(rows["kind"][0].as_py(), sums_6K)
