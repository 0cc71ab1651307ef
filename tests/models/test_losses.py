import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses import entropy, loss_sums, predictions

exact = settings(max_examples=60)
IS_BINARY_T = torch.tensor([True, False])
rows = st.lists(
    st.tuples(
        st.floats(-20, 20),
        st.floats(-20, 20),
        st.sampled_from([0.0, 1.0]),
        st.floats(-5, 5),
        st.sampled_from([0.0, 0.5, 2.0]),
    ),
    max_size=6,
)


def log_loss(logit: float, label: float) -> float:
    """-ln σ(±logit), without overflow."""
    margin = logit if label else -logit
    return math.log1p(math.exp(-abs(margin))) + max(-margin, 0)


@exact
@given(rows)
def test_sums_equal_a_loop(found: list[tuple[float, float, float, float, float]]) -> None:
    values = torch.tensor(found, dtype=torch.float64).view(-1, 5)
    weights_BT = values[:, 4:].expand(-1, 2)
    loss_T = loss_sums(values[:, :2], values[:, 2:4], weights_BT, IS_BINARY_T)
    binary = sum(weight * log_loss(logit, label) for logit, _, label, _, weight in found)
    regression = sum(weight * (prediction - label) ** 2 for _, prediction, _, label, weight in found)
    assert loss_T.tolist() == pytest.approx([binary, regression], rel=1e-12, abs=1e-12)


@exact
@given(st.floats(-20, 20), st.sampled_from([0.0, 1.0]), st.floats(0, 3))
def test_gradients_are_those_of_the_definitions(logit: float, label: float, weight: float) -> None:
    logits_BT = torch.tensor([[logit, logit]], dtype=torch.float64, requires_grad=True)
    labels_BT = torch.full((1, 2), label, dtype=torch.float64)
    loss_sums(logits_BT, labels_BT, torch.full((1, 2), weight, dtype=torch.float64), IS_BINARY_T).sum().backward()
    assert logits_BT.grad is not None
    expected = [weight * (1 / (1 + math.exp(-logit)) - label), weight * 2 * (logit - label)]
    assert logits_BT.grad[0].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_weight_zero_takes_a_row_out_of_one_task_only() -> None:
    logits_BT = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    labels_BT = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss_sums(logits_BT, labels_BT, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), IS_BINARY_T).sum().backward()
    assert logits_BT.grad is not None
    assert (logits_BT.grad != 0).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("logit", [1e4, -1e4, 88.8, -88.8])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_sure_logit_gives_a_finite_loss(logit: float, label: float) -> None:
    logits_BT = torch.tensor([[logit]], requires_grad=True)
    loss_T = loss_sums(logits_BT, torch.tensor([[label]]), torch.ones(1, 1), torch.tensor([True]))
    assert loss_T.item() == pytest.approx(log_loss(logit, label), rel=1e-6)
    loss_T.sum().backward()
    assert logits_BT.grad is not None
    assert logits_BT.grad.isfinite().all()


def test_float32_in_float32_out() -> None:
    ones_BT = torch.ones(3, 2)
    assert loss_sums(ones_BT, ones_BT, ones_BT, IS_BINARY_T).dtype == torch.float32


def test_entropy() -> None:
    assert entropy(0.5) == pytest.approx(math.log(2))
    assert (entropy(0), entropy(1)) == (0, 0)


def test_predictions_are_probabilities_of_binary_tasks_and_values_of_others() -> None:
    logits_BT = torch.tensor([[0.0, 2.5], [math.log(3), -1.0]])
    assert predictions(logits_BT, IS_BINARY_T).flatten().tolist() == pytest.approx([0.5, 2.5, 0.75, -1.0])
