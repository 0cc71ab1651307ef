"""Evaluation on the whole test set: every row once, over all ranks, through the training pipeline.

batches of the test set ──► pipeline ──► step (logits, labels, weights) ──► update of every accumulator
                                             all steps seen: compute ──► records, sums, fusion, calibration
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self, cast

import torch

from data.batch import Batch
from data.reading import Reading
from models.ranker import Ranker, StepOutput
from models.sampling import NegativeSampling
from trainer.batches import open_stream
from trainer.build_model import ShardedModel
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.evaluation.accumulator import Accumulator, TaskValues
from trainer.evaluation.auc import EXACT_ROWS, ExactAuc
from trainer.evaluation.bucket_sums import BucketSums
from trainer.evaluation.by_value import MetricsByValue
from trainer.evaluation.calibration import calibration_curves
from trainer.evaluation.gate_stats import FusionMeans
from trainer.evaluation.grouped_auc import GroupedAuc
from trainer.evaluation.metrics import Metrics
from trainer.evaluation.oracle import oracle_metrics
from trainer.evaluation.recalibration import recalibrated_ne
from trainer.evaluation.result import EvaluationResult
from trainer.evaluation.row_buckets import Bucketing, bucket_rows
from trainer.evaluation.warnings import count_not_finite
from trainer.run.records import Evaluation

Values = dict[str, Any]
"""Fields of an `Evaluation`."""


@dataclass(frozen=True)
class _Accumulators:
    """What is added up over the steps of one evaluation."""

    bucket_sums: BucketSums
    """Most metrics of the whole test set."""
    task_metrics: list[Accumulator[list[TaskValues]]]
    """Further ones: their values go into the tasks' records, in place of earlier values of the same keys."""
    fusion: FusionMeans
    by_value: list[MetricsByValue]
    """One for each column of `evaluate.by`."""

    def __iter__(self) -> Iterator[Accumulator[Any]]:
        """All of them, in the order in which they are updated; the same on all ranks."""
        yield self.bucket_sums
        yield from self.task_metrics
        yield self.fusion
        yield from self.by_value


class Evaluator:
    """Evaluates the model as it stands at the moment."""

    def __init__(self, config: Config, world: World, sharded: ShardedModel, reading: Reading) -> None:
        self._config = config
        self._world = world
        self._sharded = sharded
        self._reading = reading
        self._is_binary_T = torch.tensor([task.binary for task in config.tasks], device=world.device)
        # Errors are exchanged while the pipeline's own collectives are under way, which a group apart does not disturb.
        self._errors = world.with_own_group()
        self._oracle: dict[str, Metrics] | None = None
        """Read at the first evaluation: it is the same at every later one."""
        self._bucketing: Bucketing | None = None
        self._sampling = NegativeSampling(config.tasks, world.device)

    def on(self, reading: Reading) -> Self:
        """One that evaluates the same model on another dataset."""
        other = copy(self)
        other._reading = reading
        other._oracle = None
        other._bucketing = None
        return other

    def run(self, samples: int, between: Callable[[], None] = lambda: None) -> EvaluationResult:
        """Evaluates the model after `samples` trained samples. The pipeline must be empty.

        `between` is called after every batch; an exception of it ends the evaluation. Collective: call on all ranks.
        """
        begin = time.perf_counter()
        accumulators = self._empty_accumulators()
        not_finite = self._add_all_batches(accumulators, between)

        if self._oracle is None:
            manifest = self._reading.manifest
            weight = self._config.data.weight
            self._oracle = oracle_metrics(manifest, self._config.tasks, weight, self._world)

        # Each `compute` below issues collectives: the order is the same on all ranks.
        values = self._values_by_column(accumulators)
        metrics = accumulators.bucket_sums.compute(self._world)
        values += self._values_of_whole_set(metrics, accumulators)
        fusion = accumulators.fusion.compute(self._world)

        seconds = time.perf_counter() - begin
        records = [Evaluation(samples=samples, seconds=seconds, **of_task) for of_task in values]
        sums = accumulators.bucket_sums.sums
        tasks = self._config.tasks

        return EvaluationResult(
            samples=samples,
            test_fingerprint=self._reading.manifest.fingerprint,
            unit=self._config.evaluate.unit,
            tasks=tasks,
            records=records,
            sums=sums,
            fusion=fusion,
            calibration=calibration_curves(tasks, sums, metrics),
            not_finite=not_finite,
        )

    def _empty_accumulators(self) -> _Accumulators:
        """Collective at the first evaluation, if rows are bucketed by a column: call on all ranks."""
        config = self._config
        manifest = self._reading.manifest
        num_lanes = self._num_lanes

        if self._bucketing is None:
            self._bucketing = bucket_rows(config.evaluate.unit, manifest, num_lanes, self._world)

        is_binary_T = self._is_binary_T
        exact_auc = None
        if manifest.num_rows <= EXACT_ROWS:
            exact_auc = ExactAuc(is_binary_T, self._num_rows)

        columns = config.evaluate.by
        by_value = [MetricsByValue(column, manifest, is_binary_T, num_lanes, exact_auc) for column in columns]

        ranker = cast(Ranker, self._sharded.model.module)
        fusion = FusionMeans(ranker.head, config.head_tasks)
        bucket_sums = BucketSums(is_binary_T, self._bucketing)

        return _Accumulators(bucket_sums, self._task_metrics(exact_auc), fusion, by_value)

    def _task_metrics(self, exact_auc: ExactAuc | None) -> list[Accumulator[list[TaskValues]]]:
        """Metrics of tasks besides those that follow from `MetricSums`; a new metric is one more line here."""
        metrics: list[Accumulator[list[TaskValues]]] = []
        if exact_auc is not None:
            metrics.append(exact_auc)

        column = self._config.evaluate.group_by
        if column is not None:
            manifest = self._reading.manifest
            metrics.append(GroupedAuc(column, manifest, self._is_binary_T, self._num_lanes, self._num_rows))

        return metrics

    @property
    def _num_lanes(self) -> int:
        """Lanes of the test set that this rank serves."""
        return len(self._world.lanes(self._reading.lanes))

    @property
    def _num_rows(self) -> int:
        """This rank's share of all batches, padding included."""
        return self._reading.batches_per_epoch * self._reading.rows_per_lane * self._num_lanes

    def _add_all_batches(self, accumulators: _Accumulators, between: Callable[[], None]) -> dict[str, int]:
        """Adds every row of the test set; returns the rows with NaN or ±inf by column. Collective."""
        reading = self._reading
        batches = open_stream(reading, self._world, 0, threads=self._config.data.threads)

        self._sharded.model.eval()
        try:
            with closing(batches), torch.no_grad():
                checked_batches = self._with_errors_of_all(batches)

                for _ in range(reading.batches_per_epoch):
                    step = self._sampling.undo(self._sharded.pipeline.progress(checked_batches))
                    for accumulator in accumulators:
                        self._update(accumulator, step)
                    between()
        finally:
            self._sharded.model.train()

        return count_not_finite(reading.columns, batches.account.not_finite_D, self._world)

    def _with_errors_of_all(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches. If one rank cannot read its batch, the error is raised on all ranks."""
        # Otherwise the others would wait for that rank in the next collective of the pipeline.
        while (batch := self._errors.raise_on_all_ranks(lambda: next(batches, None))) is not None:
            yield batch

    def _update(self, accumulator: Accumulator[Any], step: StepOutput) -> None:
        """Adds a step; an error of one rank is raised on all. Collective if a column is read: call on all ranks."""
        if accumulator.reads_columns:
            self._errors.raise_on_all_ranks(partial(accumulator.update, step))
        else:
            accumulator.update(step)

    def _values_by_column(self, accumulators: _Accumulators) -> list[Values]:
        """Those of every value and task for each column of `evaluate.by`. Collective: call on all ranks."""
        all_values = []
        for column, by_value in zip(self._config.evaluate.by, accumulators.by_value, strict=True):
            metrics_of_values = by_value.compute(self._world)
            for value, metrics in metrics_of_values.items():
                values = [asdict(metrics_of_task) for metrics_of_task in metrics]
                all_values += self._named(values, {}, by=column, value=value)

        return all_values

    def _values_of_whole_set(self, metrics: list[Metrics], accumulators: _Accumulators) -> list[Values]:
        """Those of each task. Collective: call on all ranks."""
        values = [asdict(metrics_of_task) for metrics_of_task in metrics]
        for index, values_of_task in enumerate(values):
            values_of_task["ne_recalibrated"] = recalibrated_ne(accumulators.bucket_sums.sums, index, metrics[index])

        # Collectives again: the list has the same order on all ranks.
        for accumulator in accumulators.task_metrics:
            more_values = accumulator.compute(self._world)
            for values_of_task, more_of_task in zip(values, more_values, strict=True):
                values_of_task.update(more_of_task)

        assert self._oracle is not None
        return self._named(values, self._oracle, by=None, value=None)

    def _named(self, values: list[Values], oracle: dict[str, Metrics], *, by: str | None, value: Any) -> list[Values]:
        """The values of each task that is not auxiliary, with what they are of; `values` are those of all tasks."""
        no_oracle = Metrics(examples=0, weight=0.0)
        named = []

        for task, values_of_task in zip(self._config.tasks, values, strict=True):
            if task.auxiliary:
                continue

            best = oracle.get(task.name, no_oracle)
            best_values = {"oracle_ne": best.ne, "oracle_mse": best.mse}
            names = {"by": by, "value": value, "task": task.name, "kind": task.metric_kind}
            named.append({**names, **values_of_task, **best_values})

        return named
