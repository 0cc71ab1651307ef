"""What an evaluation has computed, and how it is written into the folder of its run."""

from dataclasses import dataclass
from pathlib import Path

from models.tasks import TaskConfig
from trainer.evaluation.bucket_sums import Buckets, task_buckets, write_buckets
from trainer.evaluation.calibration import Calibration, CalibrationCurve, write_calibration
from trainer.evaluation.gate_stats import write_fusion
from trainer.evaluation.metrics import MetricSums
from trainer.evaluation.warnings import describe_not_finite, evaluation_warnings
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import append_records
from trainer.run.matrices import LevelWeights
from trainer.run.records import Evaluation


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation in memory; the same on all ranks."""

    samples: int
    """Trained samples of the model that was evaluated."""
    test_fingerprint: str
    """Of the test set."""
    unit: str | None
    """Column whose values keep rows together in buckets (`evaluate.unit`)."""
    tasks: tuple[TaskConfig, ...]
    records: list[Evaluation]
    """As in evaluations.jsonl, but for the milestone: one for each value and task with `evaluate.by`, then one for each
    task on the whole test set. There are none of auxiliary tasks."""
    sums: MetricSums
    """Over all ranks, bucket by bucket."""
    fusion: list[LevelWeights]
    """Mean fusion weights, level by level."""
    calibration: list[CalibrationCurve]
    """Of every binary task that is not auxiliary."""
    not_finite: dict[str, int]
    """Rows that hold NaN or ±inf in a dense column, by column; without the columns that have none."""

    @property
    def of_whole_set(self) -> list[Evaluation]:
        """The records on the whole test set."""
        return [record for record in self.records if record.by is None]

    @property
    def warnings(self) -> list[str]:
        """What the reader of the metrics should know, in lines."""
        return evaluation_warnings(self.records) + describe_not_finite(self.not_finite, "of the test set")


def write_evaluation(
    run: RunDirectory, result: EvaluationResult, milestones: list[str], identity: str | None, *, sums_only: bool
) -> None:
    """Writes an evaluation into the folder of the run with this identity. Call it on rank 0.

    Training writes all of it; `adatt evaluate` writes the sums only (`sums_only`), on any test set, since the other
    files belong to the evaluations of training. `milestones`: texts of those reached at these samples; each gets
    records of its own.
    """
    tasks = task_buckets(result.sums, result.tasks)
    buckets = Buckets(
        samples=result.samples,
        milestones=milestones,
        fingerprint=result.test_fingerprint,
        tasks=tasks,
        unit=result.unit,
        run=identity,
    )
    if sums_only:
        write_buckets(sums_file(run, result), buckets)
        return

    write_buckets(run.buckets_file(result.samples), buckets)
    write_fusion(run.fusion_file(result.samples), result.samples, result.fusion)
    calibration = Calibration(samples=result.samples, tasks=result.calibration)
    write_calibration(run.calibration_file(result.samples), calibration)

    # Last, since the records say that the evaluation is complete (`trainer.run.evaluations`).
    for milestone in milestones or (None,):
        append_records(run.evaluations, at_milestone(result.records, milestone))


def at_milestone(records: list[Evaluation], milestone: str | None) -> list[Evaluation]:
    """The records under the name of a milestone that was reached."""
    return [record.model_copy(update={"milestone": milestone}) for record in records]


def sums_file(run: RunDirectory, result: EvaluationResult) -> Path:
    """The file in which `adatt compare` looks for the bucket sums of an evaluation, on any test set."""
    return run.evaluations_on(result.test_fingerprint) / f"{result.samples}.parquet"
