"""The records that a run leaves in its files: one model for each kind, for all who read them.

    RUN/evaluations.jsonl   Evaluation      one task at one evaluation
    RUN/events.jsonl        Event           whatever happened; SkippedBatchEvent and SkippedRowsEvent, strictly
    RUN/train.jsonl         Window          figures of what was trained since the record before
    RUN/fusion/*.json       Fusion          mean fusion weights of an evaluation
    RUN/segments.jsonl      trainer.run.starts.RunStart
    RUN/calibration/*.json  trainer.evaluation.calibration.Calibration

Keys that a model does not name are ignored, so that records of later versions can be read.
"""

from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, Field, model_validator

from trainer.run.starts import Samples


class Evaluation(BaseModel):
    """A task's metrics at one evaluation."""

    samples: Samples
    milestone: str | None
    task: str
    kind: Literal["binary", "regression"]
    examples: int
    by: str | None = None
    """The column that `value` is a value of; None for the whole test set."""
    value: bool | int | float | str | None = None
    ne: float | None = None
    oracle_ne: float | None = None
    log_loss: float | None = None
    auc: float | None = None
    auc_error: float | None = None
    calibration: float | None = None
    mse: float | None = None
    oracle_mse: float | None = None
    nmse: float | None = None
    label_mean: float | None = None

    @property
    def main(self) -> float | None:
        """NE of a binary task, MSE of a regression task."""
        return self.ne if self.kind == "binary" else self.mse


class Event(BaseModel):
    """Something that happened; keys that its kind does not have keep their defaults."""

    event: str
    time: AwareDatetime
    samples: Samples
    seconds: float = 0.0
    batch: int = 0
    file: str = ""
    row_group: int = 0
    start: int = 0
    stop: int = 0
    reason: str = ""
    problem: str = ""


class LevelWeights(BaseModel):
    """Mean weight of each unit (row) on each expert (column) of a level."""

    units: list[str]
    experts: list[str]
    weights: list[list[float]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if [len(row) for row in self.weights] != [len(self.experts)] * len(self.units):
            raise ValueError(f"weights are not {len(self.units)} rows of {len(self.experts)}")
        return self


class Fusion(BaseModel):
    """The weights of all levels at one evaluation."""

    samples: Samples
    levels: list[LevelWeights]


class SkippedBatchEvent(BaseModel):
    """A batch without an update, since a loss or gradient was not finite."""

    event: Literal["skipped_batch"]
    segment: int
    samples: Samples
    """At which the batch begins."""


class SkippedRowsEvent(BaseModel):
    """Rows start … stop of a row group's order in an epoch that could not be read."""

    event: Literal["skipped_rows"]
    segment: int
    epoch: int = Field(ge=0)
    file: str
    row_group: int
    start: int = Field(ge=0)
    stop: int


Window = dict[str, float | None]
"""A record of train.jsonl: the samples at which it was written, and figures of what was trained since the last."""
