import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchjd.scalarization import DWA, IMTLL, UW

from models.balancers.losses import dwa, imtl_l, uncertainty

ALL_ACTIVE = torch.tensor([True, True, True])


def leaf(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def gradients_of(total: torch.Tensor, *leaves: torch.Tensor) -> list[list[float]]:
    return [gradient.tolist() for gradient in torch.autograd.grad(total, leaves)]


small = st.floats(-3, 3)
losses = st.floats(0, 1e3)
tasks = st.lists(st.tuples(losses, small, st.booleans(), st.booleans()), min_size=1, max_size=5)


@given(tasks)
def test_uncertainty_equals_a_loop(rows: list[tuple[float, float, bool, bool]]) -> None:
    loss, s, is_binary, is_active = map(list, zip(*rows, strict=True))
    losses_T, s_T = leaf(loss), leaf(s)
    total = uncertainty(losses_T, s_T, torch.tensor(is_binary), torch.tensor(is_active))

    factors = [1.0 if binary else 0.5 for binary in is_binary]
    expected = [
        factor * math.exp(-s) * loss + s / 2
        for factor, (loss, s, _, active) in zip(factors, rows, strict=True)
        if active
    ]
    assert total.item() == pytest.approx(sum(expected), rel=1e-12, abs=1e-12)

    by_loss, by_s = gradients_of(total, losses_T, s_T)
    weights = [factor * math.exp(-s) * active for factor, (_, s, _, active) in zip(factors, rows, strict=True)]
    assert by_loss == pytest.approx(weights)
    slopes = [active / 2 - weight * loss for weight, (loss, _, _, active) in zip(weights, rows, strict=True)]
    assert by_s == pytest.approx(slopes, rel=1e-12, abs=1e-12)


@given(tasks)
def test_imtl_l_equals_a_loop(rows: list[tuple[float, float, bool, bool]]) -> None:
    loss, s, _, is_active = map(list, zip(*rows, strict=True))
    losses_T, s_T = leaf(loss), leaf(s)
    total = imtl_l(losses_T, s_T, torch.tensor(is_active))

    expected = sum(math.exp(s) * loss - s for loss, s, _, active in rows if active)
    assert total.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)

    by_loss, by_s = gradients_of(total, losses_T, s_T)
    assert by_loss == pytest.approx([math.exp(s) * active for _, s, _, active in rows])
    slopes = [(math.exp(s) * loss - 1) * active for loss, s, _, active in rows]
    assert by_s == pytest.approx(slopes, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("s", [[0.0, 0.0, 0.0], [0.5, -1.0, 2.0]])
def test_totals_and_gradients_equal_torchjd(s: list[float]) -> None:
    losses_T, s_T = leaf([0.7, 0.02, 5.0]), leaf(s)
    of_regressions, of_scales = UW(3).double(), IMTLL(3).double()
    with torch.no_grad():
        of_regressions.log_var.copy_(s_T)
        of_scales.log_scale.copy_(s_T)

    no_binary_T = torch.tensor([False, False, False])
    total = uncertainty(losses_T, s_T, no_binary_T, ALL_ACTIVE)
    expected = of_regressions(losses_T)
    assert total.item() == pytest.approx(expected.item())
    assert gradients_of(total, losses_T, s_T) == [
        pytest.approx(slopes) for slopes in gradients_of(expected, losses_T, of_regressions.log_var)
    ]

    total = imtl_l(losses_T, s_T, ALL_ACTIVE)
    expected = of_scales(losses_T)
    assert total.item() == pytest.approx(expected.item())
    assert gradients_of(total, losses_T, s_T) == [
        pytest.approx(slopes) for slopes in gradients_of(expected, losses_T, of_scales.log_scale)
    ]


def test_known_totals() -> None:
    losses_T, is_binary_T = leaf([0.25, 0.25, 4.0]), torch.tensor([True, False, False])
    zeros_T, down_T = torch.zeros(3), torch.full((3,), -4.0)
    assert uncertainty(losses_T, zeros_T, is_binary_T, ALL_ACTIVE).item() == 0.25 + 0.125 + 2
    assert imtl_l(losses_T, zeros_T, ALL_ACTIVE).item() == 4.5
    # Nothing keeps the total above 0: small losses make it negative.
    assert uncertainty(1e-6 * losses_T, down_T, is_binary_T, ALL_ACTIVE).item() == pytest.approx(-6, abs=1e-3)
    assert imtl_l(1e-6 * losses_T, -down_T, ALL_ACTIVE).item() == pytest.approx(-12, abs=1e-3)


def test_minima_are_those_of_the_papers() -> None:
    loss = [0.3, 5.0, 1e-3]
    is_binary_T = torch.tensor([True, False, True])
    log_losses_T = torch.tensor(loss, dtype=torch.float64).log()

    # binary: e^(-s) L = ½; regression: e^(-s) L = 1
    best_T = (log_losses_T + torch.where(is_binary_T, 2.0, 1.0).double().log()).requires_grad_()
    total = uncertainty(leaf(loss), best_T, is_binary_T, ALL_ACTIVE)
    assert gradients_of(total, best_T) == [pytest.approx([0, 0, 0], abs=1e-12)]

    best_T = (-log_losses_T).requires_grad_()
    assert gradients_of(imtl_l(leaf(loss), best_T, ALL_ACTIVE), best_T) == [pytest.approx([0, 0, 0], abs=1e-12)]


@pytest.mark.parametrize("is_active", [[True, False, True], [False, False, False]])
def test_a_task_without_labels_takes_no_part(is_active: list[bool]) -> None:
    """Its loss is 0 / 0."""
    losses_T, s_T = leaf([0.5, math.nan, 2.0]), leaf([0.1, 0.2, 0.3])
    is_active_T = torch.tensor(is_active)
    for total in (uncertainty(losses_T, s_T, ALL_ACTIVE, is_active_T), imtl_l(losses_T, s_T, is_active_T)):
        assert total.isfinite()
        by_loss, by_s = gradients_of(total, losses_T, s_T)
        assert [slope != 0 for slope in by_loss] == is_active
        assert [slope != 0 for slope in by_s] == is_active


def test_float32_in_float32_out() -> None:
    losses_T, s_T = torch.ones(3), torch.zeros(3)
    assert uncertainty(losses_T, s_T, ALL_ACTIVE, ALL_ACTIVE).dtype == torch.float32
    assert imtl_l(losses_T, s_T, ALL_ACTIVE).dtype == torch.float32


positive = st.floats(1e-3, 1e3)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=5), st.sampled_from([0.5, 2.0]))
def test_dwa_equals_torchjd(pairs: list[tuple[float, float]], temperature: float) -> None:
    before_T, last_T = torch.tensor(pairs, dtype=torch.float64).unbind(dim=1)
    expected = DWA(temperature)
    for window_T in (before_T, last_T):
        expected(window_T)
        expected.step()

    losses_T = torch.ones(len(pairs), dtype=torch.float64).requires_grad_()
    weights = gradients_of(expected(losses_T), losses_T)[0]
    found_T = dwa([before_T, last_T], temperature)
    assert found_T.tolist() == pytest.approx(weights)
    assert found_T.sum().item() == pytest.approx(len(pairs))


def test_dwa_of_two_tasks() -> None:
    """Rates 1 and ½: weights 2 σ(±¼)."""
    windows = [torch.tensor([9.0, 9.0]), torch.tensor([4.0, 2.0]), torch.tensor([4.0, 1.0])]
    weight = 2 / (1 + math.exp(-0.25))
    assert dwa(windows).tolist() == pytest.approx([weight, 2 - weight])


def test_dwa_is_1_until_there_are_two_windows() -> None:
    assert dwa([torch.tensor([3.0, 0.1])]).tolist() == [1, 1]


def test_dwa_leaves_out_tasks_without_a_loss() -> None:
    before_T = torch.tensor([4.0, math.nan, 0.0, 0.0, 2.0])
    last_T = torch.tensor([4.0, 1.0, 1.0, 0.0, 1.0])
    weight = 2 / (1 + math.exp(-0.25))
    assert dwa([before_T, last_T]).tolist() == pytest.approx([weight, 1, 1, 1, 2 - weight])
    assert dwa([before_T * math.nan, last_T]).tolist() == [1, 1, 1, 1, 1]


def test_dwa_of_a_loss_that_exploded_is_finite() -> None:
    assert dwa([torch.tensor([1e-6, 1.0]), torch.tensor([1e6, 1.0])]).tolist() == pytest.approx([2, 0])
