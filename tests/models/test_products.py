"""Products of tasks against a loop over rows in float64, and where probabilities are nearly 0 or 1."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.heads.shared_bottom import SharedBottomConfig
from models.losses import loss_sums
from models.products import factors_of, head_tasks, logit_of_both, task_logits
from models.tasks import TaskConfig
from tests.models.heads import names

TASKS = (
    TaskConfig(name="both", kind="product", of=("click", "buy_if_click"), label="buy"),
    TaskConfig(name="click", kind="binary", label="click"),
    TaskConfig(name="buy_if_click", kind="binary", label="buy"),
    TaskConfig(name="all", kind="product", of=("click", "buy_if_click", "like"), label="all"),
    TaskConfig(name="like", kind="binary", label="like"),
)
logits = st.floats(-50, 50)


def test_the_head_has_no_output_for_a_product() -> None:
    assert [task.name for task in head_tasks(TASKS)] == ["click", "buy_if_click", "like"]
    assert factors_of(TASKS) == ((0, 1), (0,), (1,), (0, 1, 2), (2,))


def test_losses_and_gradients_are_those_of_a_loop() -> None:
    """ESMM: products on every row, the conditional task inside its space alone (click = 1)."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(64, 6, dtype=torch.float64, generator=generator)
    labels = (torch.rand(64, len(TASKS), generator=generator) < 0.5).double()
    weights = torch.rand(64, len(TASKS), dtype=torch.float64, generator=generator)
    weights[:, 2] *= labels[:, 1]
    head = SharedBottomConfig(levels=((8,),), tower=(4,)).build(6, names(3)).double()
    parameters = list(head.parameters())

    outputs = head(features)
    is_binary = torch.ones(len(TASKS), dtype=torch.bool)
    loss_T = loss_sums(task_logits(outputs, factors_of(TASKS)), labels, weights, is_binary)
    gradients = torch.autograd.grad(loss_T.sum(), parameters)

    expected_T = [torch.zeros((), dtype=torch.float64) for _ in TASKS]
    for row, (click, buy, like) in enumerate(head(features).sigmoid()):
        for task, probability in enumerate((click * buy, click, buy, click * buy * like, like)):
            hit = labels[row, task]
            loss = -(hit * probability.log() + (1 - hit) * (1 - probability).log())
            expected_T[task] = expected_T[task] + weights[row, task] * loss

    expected = torch.stack(expected_T)
    torch.testing.assert_close(loss_T, expected, rtol=1e-12, atol=0)
    for found, wanted in zip(gradients, torch.autograd.grad(expected.sum(), parameters), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@given(logits, logits)
def test_log_odds_are_exact_and_symmetric(first: float, second: float) -> None:
    one, two = (torch.tensor([value], dtype=torch.float64) for value in (first, second))
    found = logit_of_both(one, two)
    torch.testing.assert_close(found, logit_of_both(two, one), rtol=1e-12, atol=1e-12)
    # 1 / (p q) - 1, in terms that do not cancel
    against = math.exp(-first) + math.exp(-second) + math.exp(-first - second)
    assert found.item() == pytest.approx(-math.log(against), rel=1e-10, abs=1e-10)


def test_certain_predictions_keep_finite_gradients_in_float32() -> None:
    values = torch.tensor([[100.0, 100.0], [-100.0, 100.0], [-100.0, -100.0]], requires_grad=True)
    logit = logit_of_both(values[:, 0], values[:, 1])
    torch.nn.functional.binary_cross_entropy_with_logits(logit, torch.tensor([0.0, 1.0, 1.0])).backward()
    assert logit.isfinite().all()
    assert values.grad is not None
    assert values.grad.isfinite().all()
