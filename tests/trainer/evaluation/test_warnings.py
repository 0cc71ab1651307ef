"""Metrics that a user should not believe."""

from typing import Any

import pytest

from trainer.evaluation.warnings import evaluation_warnings
from trainer.run.records import Evaluation

GOOD = Evaluation(samples=64, task="like", kind="binary", examples=9, weight=9.0, log_loss=0.1, ne=0.9)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"ne": 1.0521}, "NE of task 'like' is 1.0521: one prediction for all rows would do as well"),
        ({"ne": 1.0}, "optimizer.dense.learning_rate, optimizer.sparse.learning_rate"),
        ({"kind": "regression", "log_loss": None, "mse": 4.0, "nmse": 1.2}, "normalised MSE of task 'like' is 1.2000"),
        ({"ne": None}, "all labels of task 'like' in the test set are alike: NE is not defined"),
        ({"log_loss": None, "ne": None}, "predictions of task 'like' are not finite"),
        ({"weight": 0.0, "log_loss": None, "ne": None}, "no row of the test set counts for task 'like'"),
    ],
)
def test_one_line_says_what_is_wrong(changes: dict[str, Any], part: str) -> None:
    (line,) = evaluation_warnings([GOOD, GOOD.model_copy(update=changes)])
    assert part in line


def test_values_of_a_column_are_left_alone() -> None:
    assert evaluation_warnings([GOOD.model_copy(update={"by": "tab", "ne": 1.4})]) == []
