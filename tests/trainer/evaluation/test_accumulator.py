"""A new metric is a class and a line in the evaluator's list: its values are then part of the tasks' records."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.ranker import StepOutput
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.training import evaluation_records
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.evaluation.accumulator import Accumulator, TaskValues
from trainer.evaluation.auc import ExactAuc
from trainer.evaluation.evaluator import Evaluator
from trainer.train import train


class LargestLabel(Accumulator[list[TaskValues]]):
    """The largest label that counts."""

    def __init__(self, num_tasks: int) -> None:
        self._largest_T = torch.full((num_tasks,), -torch.inf)

    def update(self, step: StepOutput) -> None:
        labels_BT = torch.where(step.weights_BT > 0, step.labels_BT, -torch.inf)
        self._largest_T = torch.maximum(self._largest_T, labels_BT.amax(dim=0))

    def compute(self, world: World) -> list[TaskValues]:
        largest_T = world.concatenate(self._largest_T[None]).amax(dim=0)
        return [{"largest_label": largest} for largest in largest_T.tolist()]


class EvaluatorWithOneMore(Evaluator):
    def _task_metrics(self, exact_auc: ExactAuc | None) -> list[Accumulator[list[TaskValues]]]:
        return [*super()._task_metrics(exact_auc), LargestLabel(len(self._config.tasks))]


def _records(world: World, config: Config) -> list[dict[str, Any]]:
    train(config, world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.evaluation.evaluate_run.Evaluator", EvaluatorWithOneMore)
        return evaluation_records(config.run.dir, "latest", None, world)


def test_a_new_metric_is_part_of_the_records(dataset: Path, tmp_path: Path) -> None:
    config = make_config(dataset, run={"dir": str(tmp_path / "run")}, train={"samples": 64})
    first, second = run_on_ranks(2, _records, config)
    for one, other in zip(first, second, strict=True):
        assert one["largest_label"] == other["largest_label"]
    largest = {record["task"]: record["largest_label"] for record in first}
    assert (largest["click"], largest["rare"]) == (1.0, 1.0)
    assert largest["watch"] > 1.0
    assert all(record["ne"] is not None for record in first if record["kind"] == "binary")
