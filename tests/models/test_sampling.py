"""Log odds and weights of sampled logs, against what sampling does to them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.ranker import StepOutput
from models.sampling import NegativeSampling
from models.tasks import TaskConfig


def task_of(**keys: float) -> TaskConfig:
    return TaskConfig(name="t", kind="binary", label="t", **keys)  # type: ignore[arg-type]


def undone(task: TaskConfig, logit: float, label: float, weight: float) -> tuple[float, float]:
    step = StepOutput(
        *(torch.tensor([[value]]) for value in (logit, label, weight)),
        torch.zeros(1),
        torch.zeros(1, dtype=torch.int64),
    )
    found = NegativeSampling((task,), torch.device("cpu")).undo(step)
    return found.logits_BT.item(), found.weights_BT.item()


@given(chance=st.floats(0.001, 0.999), rate=st.floats(0.001, 1.0))
def test_the_probability_is_that_of_the_whole_log(chance: float, rate: float) -> None:
    in_sample = chance / (chance + rate * (1 - chance))
    logit = torch.tensor(in_sample, dtype=torch.float64).logit().item()
    found = torch.tensor(undone(task_of(negative_rate=rate), logit, 0, 1)[0]).sigmoid().item()
    assert found == pytest.approx(chance, rel=1e-4, abs=1e-6)


def test_a_negative_stands_for_several() -> None:
    task = task_of(negative_rate=0.25)
    assert [undone(task, 0, label, 3)[1] for label in (0, 1)] == [12, 3]
    assert undone(task, 0, 0, 0)[1] == 0
    whole = task_of(negative_rate=0.25, test_negative_rate=1.0)
    assert undone(whole, 0, 0, 3) == (pytest.approx(torch.tensor(0.25).log().item()), 3)
    assert undone(task_of(), 0.5, 0, 3) == (0.5, 3)
