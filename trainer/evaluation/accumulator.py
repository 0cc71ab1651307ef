"""What every metric of an evaluation implements: it adds up steps on each rank, and the ranks at the end.

The evaluator drives all accumulators in the same way:

    for every batch of the test set:  accumulator.update(step)     on each rank, its own rows
    at the end:                       accumulator.compute(world)   collective, the same result on all ranks

A new metric of tasks takes two changes: a file with a class that extends `Accumulator[list[TaskValues]]`, and a line
for it in `Evaluator._task_metrics`. Its values are then part of each task's record in RUN/evaluations.jsonl.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from models.ranker import StepOutput
from trainer.distributed.world import World

Result = TypeVar("Result", covariant=True)
TaskValues = dict[str, float | None]
"""Values of one task on the whole test set by their keys in evaluations.jsonl; None if a value is not defined."""


class Accumulator(ABC, Generic[Result]):
    """A quantity that is summed or collected over the steps of one evaluation.

    A subclass keeps its state on the device of the model, so that adding a step does not wait for the device. It does
    its communication in `compute` alone.
    """

    reads_columns = False
    """Whether `update` reads a column of the test set, and so may raise an ExpectedError on one rank alone. The
    evaluator then raises the error on all ranks, at the price of one small all-reduce for each step."""

    @abstractmethod
    def update(self, step: StepOutput) -> None:
        """Adds this rank's rows of one step. Rows of weight 0 (padding, missing labels) must count nowhere."""

    @abstractmethod
    def compute(self, world: World) -> Result:
        """The result over the rows of all ranks; called once, after the last step. Collective: call on all ranks.

        Every rank must issue the same collectives in the same order, even if it has seen no row that counts.
        """
