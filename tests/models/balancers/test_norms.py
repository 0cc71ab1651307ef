from random import Random

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torchjd.aggregation import IMTLG

from models.balancers.norms import SMALLEST_WEIGHT, gradnorm, imtl_g
from tests.models.balancers.gradients import RANDOM, REGULAR, SPECIAL, gradients, gram, rows


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", RANDOM)
def test_imtl_g_equals_torchjd(name: str) -> None:
    gradient_TF = RANDOM[name]
    expected_F = IMTLG()(gradient_TF)
    torch.testing.assert_close(imtl_g(gram(gradient_TF)) @ gradient_TF, expected_F, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in REGULAR if name != "one task"])
def test_imtl_g_equals_the_closed_form_of_the_paper(name: str) -> None:
    """[α₂ … α_T] = g₁ Uᵀ (D Uᵀ)⁻¹, rows of U: u₁ - u_t, of D: g₁ - g_t."""
    gradient_TF = REGULAR[name]
    unit_TF = gradient_TF / gradient_TF.norm(dim=1, keepdim=True)
    U = unit_TF[0] - unit_TF[1:]
    D = gradient_TF[0] - gradient_TF[1:]
    others = torch.linalg.solve((D @ U.T).T, U @ gradient_TF[0])
    expected_T = torch.cat([1 - others.sum(dim=0, keepdim=True), others])
    torch.testing.assert_close(imtl_g(gram(gradient_TF)), expected_T, rtol=1e-6, atol=1e-9)


@given(gradients())
def test_imtl_g_gives_equal_projections(gradient_TF: torch.Tensor) -> None:
    alpha_T = imtl_g(gram(gradient_TF))
    assert alpha_T.sum().item() == pytest.approx(1)
    projection_T = gradient_TF @ (alpha_T @ gradient_TF) / gradient_TF.norm(dim=1)
    scale = (alpha_T.abs() * gradient_TF.norm(dim=1)).sum().item()
    assert projection_T.tolist() == pytest.approx([projection_T[0].item()] * len(gradient_TF), abs=1e-9 * scale)


@given(gradients(), st.lists(st.sampled_from([1e-6, 0.1, 1.0, 7.0, 1e6]), min_size=6, max_size=6))
def test_imtl_g_with_a_longer_gradient_has_its_weight_as_much_smaller(
    gradient_TF: torch.Tensor, factors: list[float]
) -> None:
    factor_T = tensor(factors[: len(gradient_TF)])
    contribution_T = imtl_g(gram(factor_T[:, None] * gradient_TF)) * factor_T
    expected_T = imtl_g(gram(gradient_TF))
    assume(contribution_T.sum().abs() > 1e-6 * contribution_T.abs().sum())
    torch.testing.assert_close(
        contribution_T / contribution_T.sum(), expected_T, rtol=1e-6, atol=1e-6 * expected_T.abs().max().item()
    )


@given(gradients(), st.randoms(use_true_random=False))
def test_imtl_g_of_tasks_in_another_order(gradient_TF: torch.Tensor, random: Random) -> None:
    order = list(range(len(gradient_TF)))
    random.shuffle(order)
    alpha_T = imtl_g(gram(gradient_TF))
    torch.testing.assert_close(imtl_g(gram(gradient_TF[order])), alpha_T[order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        ("equal", [1 / 3, 1 / 3, 1 / 3]),
        ("opposed", [1 / 2, 1 / 2]),
        ("opposed, of other lengths", [2 / 3, 1 / 3]),
        ("all are 0", [0, 0]),
    ],
)
def test_imtl_g_of_special_gradients(name: str, alpha: list[float]) -> None:
    assert imtl_g(gram(SPECIAL[name])).tolist() == pytest.approx(alpha, abs=1e-12)


def test_imtl_g_leaves_out_a_gradient_of_0() -> None:
    gradient_TF = SPECIAL["one is 0"]
    alpha_T = imtl_g(gram(gradient_TF))
    assert alpha_T[1] == 0
    torch.testing.assert_close(alpha_T[[0, 2]], imtl_g(gram(gradient_TF[[0, 2]])))


@pytest.mark.parametrize("name", SPECIAL)
def test_imtl_g_is_finite(name: str) -> None:
    assert imtl_g(gram(SPECIAL[name])).isfinite().all()


def test_imtl_g_is_0_where_no_weights_have_the_sum_1() -> None:
    """C β = 1 for β = (-5, 10/3, 10/3), and Σ β / ‖g‖ = 0 with these lengths."""
    cosine_TT = rows((1.0, 0.9, 0.9), (0.9, 1.0, 0.65), (0.9, 0.65, 1.0))
    length_T = tensor([5.0, 20 / 3, 20 / 3])
    assert imtl_g(cosine_TT * torch.outer(length_T, length_T)).tolist() == [0, 0, 0]


def gradnorm_step(
    weights: list[float], norms: list[float], ratios: list[float], learning_rate: float, alpha: float
) -> list[float]:
    """All tasks are active."""
    num_tasks = len(weights)
    mean_norm = sum(weight * norm for weight, norm in zip(weights, norms, strict=True)) / num_tasks
    mean_ratio = sum(ratios) / num_tasks
    moved = []
    for weight, norm, ratio in zip(weights, norms, ratios, strict=True):
        leaf = tensor([weight]).requires_grad_()
        target = mean_norm * (ratio / mean_ratio) ** alpha
        (leaf * norm - target).abs().sum().backward()
        assert leaf.grad is not None
        moved.append(weight - learning_rate * leaf.grad.item())
    return [weight * num_tasks / sum(moved) for weight in moved]


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
@pytest.mark.parametrize(
    ("weights", "norms", "ratios"),
    [
        ([1.0, 1.0], [2.0, 3.0], [0.5, 0.9]),
        ([0.2, 1.3, 1.5], [5.0, 0.1, 1.0], [1.0, 0.3, 1.2]),
        ([0.5, 1.5], [0.0, 1.0], [1.0, 1.0]),
        ([0.5, 1.5], [1e-6, 1e-6], [1.0, 0.1]),
        ([1.0], [3.0], [0.5]),
    ],
)
def test_gradnorm_equals_the_gradient_of_its_loss(
    weights: list[float], norms: list[float], ratios: list[float], alpha: float
) -> None:
    is_active_T = torch.ones(len(weights), dtype=torch.bool)
    found_T = gradnorm(tensor(weights), tensor(norms), tensor(ratios), is_active_T, 0.025, alpha)
    assert found_T.tolist() == pytest.approx(gradnorm_step(weights, norms, ratios, 0.025, alpha), rel=1e-9)
    assert found_T.sum().item() == pytest.approx(len(weights))


def test_gradnorm_brings_lengths_to_the_rates() -> None:
    """With r = 1 for all, w ‖g‖ ends equal for all tasks."""
    weights_T, norms_T = torch.ones(3), tensor([1.0, 2.0, 4.0])
    for _ in range(4000):
        weights_T = gradnorm(weights_T, norms_T, torch.ones(3), torch.ones(3, dtype=torch.bool), 1e-3)
    assert (weights_T * norms_T).tolist() == pytest.approx([12 / 7] * 3, abs=0.02)


def test_gradnorm_a_slower_task_gains() -> None:
    weights_T = gradnorm(torch.ones(2), torch.ones(2), tensor([0.9, 0.3]), torch.ones(2, dtype=torch.bool), 0.1)
    assert weights_T[0] > 1 > weights_T[1]


def test_gradnorm_leaves_the_weights_of_other_tasks() -> None:
    weights_T = tensor([0.5, 1.0, 1.5])
    is_active_T = torch.tensor([True, False, True])
    ratios_T = tensor([0.5, float("nan"), 1.0])
    found_T = gradnorm(weights_T, tensor([1.0, 0.0, 3.0]), ratios_T, is_active_T, 0.025)
    assert found_T[1] == 1
    assert found_T.sum().item() == pytest.approx(3)
    # of the two: mean norm (0.5 + 4.5) / 2, rates 2/3 and 4/3; both products are on known sides of their targets
    assert found_T[0].item() == pytest.approx(2 * 0.525 / (0.525 + 1.425))
    none_T = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(gradnorm(weights_T, ratios_T, ratios_T, none_T, 0.025), weights_T)


def test_gradnorm_keeps_weights_above_0() -> None:
    found_T = gradnorm(torch.ones(2), tensor([1e6, 1.0]), torch.ones(2), torch.ones(2, dtype=torch.bool), 0.025)
    assert found_T.min() > 0
    assert found_T[0].item() == pytest.approx(2 * SMALLEST_WEIGHT / (SMALLEST_WEIGHT + 1.025))
    assert found_T.sum().item() == pytest.approx(2)


def test_gradnorm_with_losses_of_0() -> None:
    found_T = gradnorm(torch.ones(2), torch.ones(2), torch.zeros(2), torch.ones(2, dtype=torch.bool), 0.025)
    assert found_T.tolist() == pytest.approx([1, 1])
