import itertools
import math
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torchjd.aggregation import MGDA

from models.balancers.optima import Normalizer, cagrad, mgda, nash_mtl
from tests.models.balancers.gradients import ALL, RANDOM, REGULAR, SPECIAL, gradients, gram, random_gradients, rows


def shortest(gradient_TF: torch.Tensor) -> torch.Tensor:
    return mgda(gram(gradient_TF), torch.ones(len(gradient_TF)))


@pytest.mark.parametrize("num_tasks", [2, 3, 5, 8])
def test_mgda_equals_torchjd(num_tasks: int) -> None:
    """Gradients of one length, nearly orthogonal, are all in use; then plain Frank-Wolfe comes to its end."""
    gradient_TF = normalize(random_gradients(num_tasks, seed=num_tasks, num_features=200))
    expected_F = MGDA(epsilon=1e-12, max_iters=2000)(gradient_TF)
    torch.testing.assert_close(shortest(gradient_TF) @ gradient_TF, expected_F, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", RANDOM)
def test_mgda_is_never_longer_than_torchjd(name: str) -> None:
    """Where the minimum leaves tasks out, plain Frank-Wolfe is still on its way."""
    gradient_TF = RANDOM[name]
    length = (shortest(gradient_TF) @ gradient_TF).norm()
    expected = MGDA(epsilon=1e-12, max_iters=2000)(gradient_TF).norm()
    assert 0.995 * expected < length < expected * (1 + 1e-12)


@given(gradients())
def test_mgda_meets_the_conditions_of_the_minimum(gradient_TF: torch.Tensor) -> None:
    """For the shortest p all ⟨p, g_t⟩ are at least ‖p‖²."""
    alpha_T = shortest(gradient_TF)
    assert alpha_T.min() >= 0
    assert alpha_T.sum().item() == pytest.approx(1)

    shared_F = alpha_T @ gradient_TF
    gap = shared_F.square().sum() - (gradient_TF @ shared_F).min()
    assert gap <= 1e-9 * gradient_TF.square().sum(dim=1).max()


@given(gradients(), st.integers(0, 2**32 - 1))
def test_a_rounding_does_not_move_mgda(gradient_TF: torch.Tensor, seed: int) -> None:
    """Ranks add up in another order at another world size. Tasks that are hardly in use may be left out or not."""
    noise_TF = torch.randn(gradient_TF.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved_TF = gradient_TF * (1 + 1e-7 * noise_TF)
    torch.testing.assert_close(shortest(moved_TF), shortest(gradient_TF), rtol=0, atol=1e-4)


@given(gradients(min_tasks=2))
def test_mgda_of_two_is_exact(gradient_TF: torch.Tensor) -> None:
    first_F, second_F = pair_TF = gradient_TF[:2]
    apart_F = second_F - first_F
    second = (-first_F @ apart_F / apart_F.square().sum()).clamp(0, 1).item()
    assert shortest(pair_TF).tolist() == pytest.approx([1 - second, second], abs=1e-9)


@pytest.mark.parametrize(
    ("gradient_TF", "alpha"),
    [
        (SPECIAL["opposed"], [1 / 2, 1 / 2]),
        (SPECIAL["opposed, of other lengths"], [2 / 3, 1 / 3]),
        (SPECIAL["equal"], [1 / 3, 1 / 3, 1 / 3]),
        (SPECIAL["one is 0"], [0, 1, 0]),
        (SPECIAL["all are 0"], [1 / 2, 1 / 2]),
        (rows((3.0, 4.0)), [1]),
        # orthogonal: in proportion to 1 / ‖g‖²
        (rows((1.0, 0.0), (0.0, 2.0)), [4 / 5, 1 / 5]),
        (rows((1e-6, 0.0), (0.0, 1e6)), [1, 0]),
        # The second is longer and its projection on the first too: the first alone is the shortest.
        (rows((1.0, 0.0), (2.0, 1.0)), [1, 0]),
    ],
)
def test_mgda_of_known_gradients(gradient_TF: torch.Tensor, alpha: list[float]) -> None:
    assert shortest(gradient_TF).tolist() == pytest.approx(alpha, abs=1e-9)


@pytest.mark.parametrize("normalizer", ["none", "l2", "loss", "loss+"])
@pytest.mark.parametrize("name", RANDOM)
def test_mgda_of_normalized_gradients(name: str, normalizer: Normalizer) -> None:
    gradient_TF = RANDOM[name]
    losses_T = torch.linspace(0.5, 3, len(gradient_TF), dtype=torch.float64)
    length_T = gradient_TF.norm(dim=1)
    scale_T = {"none": losses_T**0, "l2": length_T, "loss": losses_T, "loss+": losses_T * length_T}[normalizer]
    expected_T = shortest(gradient_TF / scale_T[:, None])
    torch.testing.assert_close(mgda(gram(gradient_TF), losses_T, normalizer), expected_T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalizer", ["l2", "loss", "loss+"])
def test_mgda_does_not_divide_by_0(normalizer: Normalizer) -> None:
    alpha_T = mgda(gram(SPECIAL["one is 0"]), torch.tensor([1.0, 0.0, 2.0]), normalizer)
    assert alpha_T.tolist() == pytest.approx([0, 1, 0], abs=1e-9)


def cagrad_gap(gradient_TF: torch.Tensor, shared_F: torch.Tensor, c: float) -> tuple[float, float]:
    """How far d is outside the ball, and how far its worst ⟨g_t, d⟩ is from a bound that none in the ball can pass.

    By the paper's definition d maximises min_t ⟨g_t, d⟩ in the ball ‖d - g₀‖ ≤ c ‖g₀‖. For every w in the simplex
    max_d min_t ⟨g_t, d⟩ ≤ max_d ⟨g_w, d⟩ = ⟨g_w, g₀⟩ + c ‖g₀‖ ‖g_w‖. Both are relative to ‖g₀‖.
    """
    mean_F = gradient_TF.mean(dim=0)
    radius = c * mean_F.norm()
    outside = ((shared_F - mean_F).norm() - radius) / mean_F.norm()

    worst = (gradient_TF @ shared_F).min()
    mix_F = shared_F - mean_F
    # In the optimum d - g₀ is a multiple of g_w with w in the simplex; the least squares recover w.
    w_T = torch.linalg.lstsq(gradient_TF.T, mix_F[:, None]).solution[:, 0].clamp(min=0)
    mixed_F = (w_T / w_T.sum()) @ gradient_TF
    bound = mixed_F @ mean_F + radius * mixed_F.norm()
    return outside.item(), ((bound - worst) / mean_F.norm() / gradient_TF.norm(dim=1).max()).item()


@given(gradients(), st.sampled_from([0.1, 0.4, 0.9]))
def test_cagrad_helps_the_worst_task_as_much_as_any_direction_in_the_ball(gradient_TF: torch.Tensor, c: float) -> None:
    num_tasks = len(gradient_TF)
    shared_F = cagrad(gram(gradient_TF), c) @ gradient_TF * (1 + c**2) / num_tasks
    outside, gap = cagrad_gap(gradient_TF, shared_F, c)
    assert abs(outside) < 1e-6
    assert -1e-9 < gap < 1e-6


@pytest.mark.parametrize("name", RANDOM)
def test_cagrad_equals_a_grid_of_directions(name: str) -> None:
    """No mix of pairs of gradients, at any of 10,001 shares, has a lower dual than the one found."""
    gradient_TF, c = RANDOM[name], 0.4
    num_tasks = len(gradient_TF)
    mean_F = gradient_TF.mean(dim=0)
    shared_F = cagrad(gram(gradient_TF), c) @ gradient_TF * (1 + c**2) / num_tasks
    worst = (gradient_TF @ shared_F).min()

    share_S1 = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    lowest = math.inf
    for first, second in itertools.combinations(range(num_tasks), 2):
        mix_SF = share_S1 * gradient_TF[first] + (1 - share_S1) * gradient_TF[second]
        dual_S = mix_SF @ mean_F + c * mean_F.norm() * mix_SF.norm(dim=1)
        lowest = min(lowest, dual_S.min().item())
    assert worst <= lowest + 1e-9
    if num_tasks == 2:
        assert worst.item() == pytest.approx(lowest, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("gradient_TF", "alpha"),
    [
        (rows((3.0, 4.0)), [1.4]),
        (SPECIAL["equal"], [1.4, 1.4, 1.4]),
        (rows((1.0, 0.0), (0.0, 1.0)), [1.4, 1.4]),
        # g₀ = 0: the ball is a point
        (SPECIAL["opposed"], [1, 1]),
        # g₀ = -g₁ / 2, the worst task is the first: 1/2 + 0.4 · 1/2
        (SPECIAL["opposed, of other lengths"], [1.4, 1]),
        (SPECIAL["all are 0"], [1.16, 1.16]),
    ],
)
def test_cagrad_of_known_gradients(gradient_TF: torch.Tensor, alpha: list[float]) -> None:
    expected = [weight / 1.16 for weight in alpha]
    assert cagrad(gram(gradient_TF)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_cagrad_without_a_ball_is_the_sum(name: str) -> None:
    assert cagrad(gram(ALL[name]), c=0).tolist() == pytest.approx([1] * len(ALL[name]))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("name", RANDOM)
def test_cagrad_does_not_depend_on_the_common_scale(name: str, scale: float) -> None:
    gram_TT = gram(RANDOM[name])
    torch.testing.assert_close(cagrad(scale**2 * gram_TT), cagrad(gram_TT), rtol=1e-4, atol=1e-4)


def test_cagrad_with_wide_scales_stays_in_the_ball() -> None:
    gradient_TF = REGULAR["wide scales"]
    shared_F = cagrad(gram(gradient_TF)) @ gradient_TF * 1.16 / 3
    mean_F = gradient_TF.mean(dim=0)
    assert (shared_F - mean_F).norm() <= 0.4 * mean_F.norm() * (1 + 1e-6)
    assert (gradient_TF @ shared_F).min() > 0


@pytest.mark.parametrize("name", SPECIAL)
def test_cagrad_is_finite(name: str) -> None:
    assert cagrad(gram(SPECIAL[name])).isfinite().all()


def bargain(gradient_TF: torch.Tensor, max_norm: float = math.inf) -> torch.Tensor:
    ones_T = torch.ones(len(gradient_TF))
    return nash_mtl(gram(gradient_TF), ones_T, ones_T.bool(), max_norm)[0]


@pytest.mark.parametrize("name", [*REGULAR, "nearly equal", "nearly opposed"])
def test_nash_solves_its_equation(name: str) -> None:
    gradient_TF = ALL[name]
    alpha_T = bargain(gradient_TF)
    assert alpha_T.min() > 0
    product_T = alpha_T * (gram(gradient_TF) @ alpha_T)
    assert product_T.tolist() == pytest.approx([1] * len(gradient_TF), abs=1e-6)


@given(gradients())
def test_nash_of_random_gradients_solves_its_equation(gradient_TF: torch.Tensor) -> None:
    alpha_T = bargain(gradient_TF)
    product_T = alpha_T * (gram(gradient_TF) @ alpha_T)
    assert product_T.tolist() == pytest.approx([1] * len(gradient_TF), abs=1e-9)


@given(gradients())
def test_nash_is_the_best_product_of_gains_in_its_ball(gradient_TF: torch.Tensor) -> None:
    """Of all directions of one length, d has the largest Σ ln ⟨g_t, d⟩."""
    shared_F = bargain(gradient_TF, max_norm=1.0) @ gradient_TF
    assert shared_F.norm().item() == pytest.approx(1)
    best = (gradient_TF @ shared_F).log().sum()
    for step in 1e-3 * random_gradients(20, seed=0, num_features=len(shared_F)):
        other_F = (shared_F + step) / (shared_F + step).norm()
        gain_T = gradient_TF @ other_F
        assert gain_T.min() <= 0 or gain_T.log().sum() <= best


@pytest.mark.parametrize(
    ("gradient_TF", "alpha"),
    [
        (rows((3.0, 4.0)), [1 / 5]),
        (rows((1.0, 0.0), (0.0, 2.0)), [1, 1 / 2]),
        (SPECIAL["equal"], [1 / math.sqrt(15)] * 3),
        (rows((1e-6, 0.0), (0.0, 1e6)), [1e6, 1e-6]),
        # ⟨g₁, g₂⟩ = -1/2 at length 1: β² (1 - 1/2) = 1
        (rows((1.0, 0.0), (-0.5, math.sqrt(0.75))), [math.sqrt(2)] * 2),
    ],
)
def test_nash_of_known_gradients(gradient_TF: torch.Tensor, alpha: list[float]) -> None:
    assert bargain(gradient_TF).tolist() == pytest.approx(alpha, rel=1e-9)


@given(gradients(), st.randoms(use_true_random=False))
def test_nash_of_tasks_in_another_order(gradient_TF: torch.Tensor, random: Random) -> None:
    order = list(range(len(gradient_TF)))
    random.shuffle(order)
    torch.testing.assert_close(bargain(gradient_TF[order]), bargain(gradient_TF)[order])


@given(gradients(), st.lists(st.sampled_from([1e-6, 0.1, 1.0, 7.0, 1e6]), min_size=6, max_size=6))
def test_nash_does_not_depend_on_the_lengths(gradient_TF: torch.Tensor, factors: list[float]) -> None:
    factor_T = torch.tensor(factors[: len(gradient_TF)], dtype=torch.float64)
    longer_TF = factor_T[:, None] * gradient_TF
    torch.testing.assert_close(bargain(longer_TF) * factor_T, bargain(gradient_TF), rtol=1e-6, atol=1e-9)


def test_nash_is_shortened_to_the_largest_norm() -> None:
    gradient_TF = RANDOM["5 tasks"]
    full_T = bargain(gradient_TF)
    assert (full_T @ gradient_TF).norm().item() == pytest.approx(math.sqrt(5))
    torch.testing.assert_close(bargain(gradient_TF, max_norm=1.0), full_T / math.sqrt(5))
    torch.testing.assert_close(bargain(gradient_TF, max_norm=3.0), full_T)


@pytest.mark.parametrize("name", ["opposed", "opposed, of other lengths"])
def test_nash_without_a_solution_keeps_the_previous_weights(name: str) -> None:
    previous_T = torch.tensor([0.3, 0.7], dtype=torch.float64)
    gradient_TF = SPECIAL[name]
    alpha_T, kept_T = nash_mtl(gram(gradient_TF), previous_T, torch.ones(2).bool(), max_norm=math.inf)
    assert torch.equal(alpha_T, previous_T)
    assert torch.equal(kept_T, previous_T)


def test_nash_passes_on_the_weights_before_they_are_shortened() -> None:
    gradient_TF = RANDOM["3 tasks"]
    previous_T = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    is_active_T = torch.tensor([True, False, True])
    alpha_T, kept_T = nash_mtl(gram(gradient_TF), previous_T, is_active_T, max_norm=0.5)
    two_T = bargain(gradient_TF[is_active_T])
    torch.testing.assert_close(kept_T[is_active_T], two_T)
    torch.testing.assert_close(alpha_T[is_active_T], two_T * 0.5 / math.sqrt(2))
    assert (alpha_T[1], kept_T[1]) == (0, 0.2)


def test_nash_keeps_the_previous_weights_where_gradients_are_not_finite() -> None:
    previous_T = torch.tensor([0.1, 0.2], dtype=torch.float64)
    gram_TT = torch.tensor([[1.0, math.nan], [math.nan, math.nan]])
    alpha_T, kept_T = nash_mtl(gram_TT, previous_T, torch.ones(2).bool())
    assert alpha_T.isnan().all()
    assert torch.equal(kept_T, previous_T)


def test_nash_is_not_harmed_by_gradients_of_tasks_that_are_not_active() -> None:
    gram_TT = torch.tensor([[4.0, math.nan], [math.nan, math.nan]])
    alpha_T, kept_T = nash_mtl(gram_TT, torch.ones(2), torch.tensor([True, False]))
    assert (alpha_T.tolist(), kept_T.tolist()) == ([0.5, 0], [0.5, 1])


def test_nash_leaves_out_a_gradient_of_0() -> None:
    gradient_TF = SPECIAL["one is 0"]
    alpha_T = bargain(gradient_TF)
    assert alpha_T[1] == 0
    torch.testing.assert_close(alpha_T[[0, 2]], bargain(gradient_TF[[0, 2]]))
    assert bargain(SPECIAL["all are 0"]).tolist() == [0, 0]


def test_nash_without_active_tasks() -> None:
    previous_T = torch.tensor([0.1, 0.2], dtype=torch.float64)
    alpha_T, kept_T = nash_mtl(gram(RANDOM["2 tasks"]), previous_T, torch.zeros(2).bool())
    assert alpha_T.tolist() == [0, 0]
    assert torch.equal(kept_T, previous_T)


@pytest.mark.parametrize("name", SPECIAL)
def test_nash_is_finite(name: str) -> None:
    assert bargain(SPECIAL[name]).isfinite().all()
