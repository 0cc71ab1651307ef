"""The records of evaluations that are matrices, each a JSON file of its own.

RUN/fusion/*.json       Fusion      mean weights of units on experts
RUN/conflicts/*.json    Conflicts   mean cosines between the gradients of tasks
"""

from typing import Self

from pydantic import BaseModel, Field, model_validator

from trainer.run.records import Record
from trainer.run.starts import Samples


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


class Fusion(Record):
    """The weights of all levels at one evaluation."""

    levels: list[LevelWeights]


class Conflicts(Record):
    """Cosines between the gradients of each two tasks, tasks x tasks, over the steps between two evaluations.

    None for a task with itself, and where a gradient was 0 in all steps.
    """

    since: Samples
    steps: int = Field(gt=0)
    """In which gradients were looked at."""
    tasks: list[str]
    cosines: list[list[float | None]]
    """Means."""
    below_zero: list[list[float | None]]
    """Share of the steps."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        size = len(self.tasks)
        for rows in (self.cosines, self.below_zero):
            if [len(row) for row in rows] != [size] * size:
                raise ValueError(f"cosines and shares are not {size} rows of {size}")
        return self
