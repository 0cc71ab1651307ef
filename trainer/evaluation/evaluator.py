"""Evaluation on the whole test set: every row once, over all ranks, through the training pipeline.

A synthetic dataset stores the true conditional mean of label `x` in column `oracle_x`; what that mean scores is the
best that any model can reach, and is reported beside the model's own metrics. The model never sees it: it is read here,
apart from the batches.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import pyarrow as pa
import torch

from data.batch import Batch
from data.discovery.footer import types_named
from data.discovery.schema import ORACLE_PREFIX
from data.manifest import Manifest
from data.reading import Reading
from data.row_groups import read_row_group
from data.stream import stream
from models.ranker import Ranker, StepOutput
from models.tasks import TaskConfig
from trainer.build_model import ShardedModel
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.evaluation.auc import EXACT_ROWS, ExactAuc
from trainer.evaluation.by_value import MetricsByValue
from trainer.evaluation.calibration import CalibrationCurve, calibration_curve
from trainer.evaluation.gate_stats import FusionMeans
from trainer.evaluation.metrics import Metrics, MetricSums, with_exact_auc
from trainer.evaluation.not_finite import count_not_finite, describe_not_finite
from trainer.evaluation.test_units import Bucketing, bucket_rows
from trainer.evaluation.warnings import evaluation_warnings


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation has found; alike on all ranks."""

    records: list[dict[str, Any]]
    """One per non-auxiliary task, and with `evaluate.by` one for each value and task before them."""
    sums: MetricSums
    fusion: list[dict[str, Any]]
    """Mean fusion weights, level by level."""
    calibration: list[CalibrationCurve]
    """Of every binary task that is not auxiliary."""
    not_finite: dict[str, int]
    """Rows that hold NaN or ±inf in a dense column, where there are any."""

    @property
    def warnings(self) -> list[str]:
        """What the reader of the metrics should know, in lines."""
        return evaluation_warnings(self.records) + describe_not_finite(self.not_finite, "of the test set")


@dataclass
class _Tally:
    """What is added up over the batches of an evaluation."""

    sums: MetricSums
    exact: ExactAuc | None
    by: list[MetricsByValue]
    """One for each column of `evaluate.by`; updated apart, since they read their columns."""
    gates: FusionMeans
    not_finite: dict[str, int]

    def update(self, output: StepOutput, bucket_B: torch.Tensor) -> None:
        self.sums.update(output.logits_BT, output.labels_BT, output.weights_BT, bucket_B)
        self.gates.update(output.row_ids_B >= 0)
        if self.exact is not None:
            self.exact.update(output.logits_BT, output.labels_BT, output.weights_BT)

    def compute(self, world: World) -> list[Metrics]:
        """Metrics of each task on the whole test set. Collective: call on all ranks."""
        for tensor in self.sums.tensors:
            world.sum(tensor)
        aucs = self.exact.compute(world) if self.exact is not None else {}
        return with_exact_auc(self.sums.compute(), aucs)


class Evaluator:
    """Evaluates the model as it stands."""

    def __init__(self, config: Config, world: World, sharded: ShardedModel, reading: Reading) -> None:
        self._config, self._world, self._sharded, self._reading = config, world, sharded, reading
        self._meeting = world.with_own_group()
        self._oracle: dict[str, Metrics] | None = None
        self._bucketing: Bucketing | None = None

    def run(self, samples: int, between: Callable[[], None] = lambda: None) -> Evaluation:
        """The pipeline must be empty. Collective: call on all ranks.

        `between` is called after every batch; what it raises ends the evaluation.
        """
        begin = time.perf_counter()
        tally = self._evaluate(between)
        if self._oracle is None:
            self._oracle = oracle_metrics(
                self._reading.manifest, self._config.tasks, self._config.data.weight, self._world
            )
        rows: list[tuple[str | None, Any, list[Metrics], dict[str, Metrics]]] = [
            (column, value, found, {})
            for column, values in zip(self._config.evaluate.by, tally.by, strict=True)
            for value, found in values.compute(self._world, tally.exact).items()
        ]
        metrics = tally.compute(self._world)
        rows.append((None, None, metrics, self._oracle))
        fusion = tally.gates.compute(self._world)
        shared = {"samples": samples, "milestone": None}
        timed = {"seconds": time.perf_counter() - begin}
        records = [
            {**shared, "by": column, "value": value, **record, **timed}
            for column, value, found, oracle in rows
            for record in self._records(found, oracle)
        ]
        return Evaluation(records, tally.sums, fusion, self._calibration(tally.sums, metrics), tally.not_finite)

    def _readable(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; what went wrong in reading those of one rank is raised on all."""
        while (batch := self._meeting.raise_on_all_ranks(lambda: next(batches, None))) is not None:
            yield batch

    def _records(self, metrics: list[Metrics], oracle: dict[str, Metrics]) -> list[dict[str, Any]]:
        nothing = Metrics(0, 0.0)
        records = []
        for task, found in zip(self._config.tasks, metrics, strict=True):
            best = oracle.get(task.name, nothing)
            known = {"oracle_ne": best.ne, "oracle_mse": best.mse}
            records.append({"task": task.name, "kind": task.kind, **asdict(found), **known})
        shown = {task.name for task in self._config.tasks if not task.auxiliary}
        return [record for record in records if record["task"] in shown]

    def _calibration(self, sums: MetricSums, metrics: list[Metrics]) -> list[CalibrationCurve]:
        curves = [
            calibration_curve(task.name, sums, number, found)
            for number, (task, found) in enumerate(zip(self._config.tasks, metrics, strict=True))
            if task.binary and not task.auxiliary
        ]
        return [curve for curve in curves if curve is not None]

    def _evaluate(self, between: Callable[[], None]) -> _Tally:
        world, reading = self._world, self._reading
        lanes = world.lanes(reading.lanes)
        if self._bucketing is None:
            self._bucketing = bucket_rows(self._config.evaluate.unit, reading.manifest, len(lanes), world)
        tally = self._empty_tally(self._bucketing, len(lanes))
        pinned = world.device.type == "cuda"
        batches = stream(reading, lanes, 0, threads=self._config.data.threads, pin=pinned)
        self._sharded.model.eval()
        try:
            with torch.no_grad():
                readable = self._readable(batches)
                for _ in range(reading.batches_per_epoch):
                    output = self._sharded.pipeline.progress(readable)
                    tally.update(output, self._buckets_of(self._bucketing, output))
                    for values in tally.by:
                        self._meeting.raise_on_all_ranks(partial(values.update, output))
                    between()
        finally:
            batches.close()
            self._sharded.model.train()
        tally.not_finite = count_not_finite(reading.columns, batches.not_finite_D, world)
        return tally

    def _empty_tally(self, bucketing: Bucketing, lanes: int) -> _Tally:
        config, manifest, device = self._config, self._reading.manifest, self._world.device
        is_binary_T = torch.tensor([task.binary for task in config.tasks], device=device)
        rows = self._reading.batches_per_epoch * self._reading.rows_per_lane * lanes
        is_exact = manifest.num_rows <= EXACT_ROWS
        head = cast(Ranker, self._sharded.model.module).head
        return _Tally(
            sums=MetricSums(is_binary_T, bucketing.count),
            exact=ExactAuc(is_binary_T, rows) if is_exact else None,
            by=[
                MetricsByValue(column, manifest, is_binary_T, lanes, rows if is_exact else None)
                for column in config.evaluate.by
            ],
            gates=FusionMeans(head, [task.name for task in config.tasks]),
            not_finite={},
        )

    def _buckets_of(self, bucketing: Bucketing, output: StepOutput) -> torch.Tensor:
        """The bucket of each row (B). Collective where a column is read: call on all ranks."""
        if bucketing.unit is None:
            return bucketing.of(output.row_ids_B)
        return self._meeting.raise_on_all_ranks(lambda: bucketing.of(output.row_ids_B))


def oracle_metrics(
    manifest: Manifest, tasks: tuple[TaskConfig, ...], weight: str | None, world: World
) -> dict[str, Metrics]:
    """Metrics of the true conditional means, for the tasks that have them. Collective: call on all ranks."""
    known = [task for task in tasks if _has_oracle(manifest, task)]
    sums = {task.name: MetricSums(torch.tensor([task.binary])) for task in known}

    def read() -> None:
        for group in range(world.rank, len(manifest.rows) if known else 0, world.size):
            _add_oracles(manifest, group, known, weight, sums)

    world.raise_on_all_ranks(read)
    for total in sums.values():
        for tensor in total.tensors:
            tensor.copy_(world.sum(tensor.to(world.device)).cpu())
    return {name: total.compute()[0] for name, total in sums.items()}


def _has_oracle(manifest: Manifest, task: TaskConfig) -> bool:
    """Whether the dataset holds the true mean of the task's label, as a number."""
    name = ORACLE_PREFIX + task.label
    stored = [types_named(schema, name) for _, schema in manifest.schemas]
    return all(len(types) == 1 and pa.types.is_floating(types[0]) for types in stored)


def _add_oracles(
    manifest: Manifest, group: int, tasks: list[TaskConfig], weight: str | None, sums: dict[str, MetricSums]
) -> None:
    names = {name for task in tasks for name in (task.label, ORACLE_PREFIX + task.label)} | (
        {weight} if weight else set()
    )
    table = read_row_group(manifest, group, sorted(names))
    columns = {name: torch.from_numpy(table[name].to_numpy().astype("float64"))[:, None] for name in names}
    for task in tasks:
        label_B1, oracle_B1 = columns[task.label], columns[ORACLE_PREFIX + task.label]
        present_B1 = ~(label_B1.isnan() | oracle_B1.isnan())
        weight_B1 = present_B1 * columns[weight] if weight else present_B1
        logit_B1 = oracle_B1.logit() if task.binary else oracle_B1
        sums[task.name].update(logit_B1.nan_to_num(), label_B1.nan_to_num(), weight_B1)
