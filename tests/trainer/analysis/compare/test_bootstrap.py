"""Intervals that cover what they should, differences that are exact, and Student's t against scipy."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from threadpoolctl import threadpool_limits

from trainer.analysis.compare.bootstrap import (
    FEWEST_BUCKETS,
    RESAMPLES,
    Estimate,
    Floats,
    bucket_draws,
    compare_losses,
    t_quantile,
)

exact = settings(max_examples=40)
BUCKETS, ROWS = 1024, 3_000
ROW_NOISE = (0.5, 0.475)
"""Standard deviation of what each of two models adds to the true logit, or mean, of a row; correlated at 0.9."""
Draw = Callable[[np.random.Generator, int], tuple[Floats, Floats]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are slower on several threads where other processes are busy."""
    with threadpool_limits(1):
        yield


def estimate(baseline: dict[int, Floats], losses: dict[int, Floats], resamples: int = RESAMPLES) -> Estimate:
    found = compare_losses(baseline, losses, resamples)
    assert found is not None
    return found


def random_losses(seed: int, models: int) -> Floats:
    """Losses of some models that have rows in common, by model and bucket."""
    random = np.random.default_rng(seed)
    return random.exponential(1.0, BUCKETS) * random.normal(1.0, 0.05, (models, BUCKETS))


def model_noise(random: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    one, other = random.normal(size=(2, rows))
    return ROW_NOISE[0] * one, ROW_NOISE[1] * (0.9 * one + math.sqrt(1 - 0.9**2) * other)


def softplus(logit: Floats) -> Floats:
    return np.logaddexp(0, logit)


def draw_clicks(random: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Log losses of two models on the same rows."""
    logit = -1.5 + 1.2 * random.normal(size=rows)
    click = random.random(rows) < 1 / (1 + np.exp(-logit))
    first, second = (softplus(logit + noise) - click * (logit + noise) for noise in model_noise(random, rows))
    return first, second


def draw_squares(random: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Squared errors of two models on the same rows, whose labels have heavy tails."""
    label_noise = random.laplace(size=rows)
    first, second = (np.square(label_noise - noise) for noise in model_noise(random, rows))
    return first, second


def true_log_loss(noise: float) -> float:
    """Expected log loss of `draw_clicks`, by quadrature over the row's logit and the model's noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    logit, given_logit = -1.5 + 1.2 * nodes[:, None], noise * nodes
    chance = 1 / (1 + np.exp(-logit))
    return float(weights @ (softplus(logit + given_logit) - chance * (logit + given_logit)) @ weights)


def true_square(noise: float) -> float:
    """Expected squared error of `draw_squares`: a Laplace variable has variance 2."""
    return 2 + noise**2


@pytest.mark.parametrize(
    ("draw", "expected_loss"), [(draw_clicks, true_log_loss), (draw_squares, true_square)], ids=["ne", "mse"]
)
def test_intervals_of_two_models_cover_the_truth(draw: Draw, expected_loss: Callable[[float], float]) -> None:
    """NE and MSE differ by what their summed losses differ by, so the truth is the ratio of the expected losses."""
    repetitions, random = 1_000, np.random.Generator(np.random.Philox(5))
    truth = 100 * (expected_loss(ROW_NOISE[1]) / expected_loss(ROW_NOISE[0]) - 1)
    covered = below = claimed = 0
    for _ in range(repetitions):
        bucket = random.integers(0, BUCKETS, ROWS)
        first_K, second_K = (np.bincount(bucket, loss, BUCKETS) for loss in draw(random, ROWS))
        found = estimate({1: first_K}, {1: second_K})
        covered += found.low <= truth <= found.high
        below += found.high < truth
        claimed += found.excludes_zero
    assert 0.93 <= covered / repetitions <= 0.97
    assert 0.01 <= below / repetitions <= 0.05  # it errs to both sides
    assert claimed > 0.05 * repetitions  # and is narrow enough to find something


def train_heads(
    random: np.random.Generator, sides: tuple[int, int], truth: float, row_noise: float
) -> tuple[dict[int, Floats], dict[int, Floats]]:
    """Losses of seeds of two heads: a level for each training, rows that a head finds hard, and noise of each model."""
    rows_K = random.exponential(1.0, BUCKETS)
    heads = []
    for seeds, level in zip(sides, (1.0, 1 + truth), strict=True):
        head_K = 1 + row_noise * random.normal(size=BUCKETS) * (truth != 0)
        models = level * (1 + 0.001 * random.normal(size=(seeds, 1))) + 0.02 * random.normal(size=(seeds, BUCKETS))
        heads.append(rows_K * head_K * models)
    numbers = [range(seeds) for seeds in sides] if sides[0] == sides[1] else [range(sides[0]), range(50, 50 + sides[1])]
    baseline, losses = (dict(zip(seeds, head, strict=True)) for seeds, head in zip(numbers, heads, strict=True))
    return baseline, losses


@pytest.mark.parametrize("sides", [(2, 2), (4, 4), (1, 3), (3, 1), (2, 3)], ids=str)
def test_two_seeds_of_one_head_are_not_called_different(sides: tuple[int, int]) -> None:
    repetitions, random = 600, np.random.Generator(np.random.Philox(6))
    called = sum(
        estimate(*train_heads(random, sides, truth=0.0, row_noise=0.0), 200).excludes_zero for _ in range(repetitions)
    )
    assert called <= stats.binom.ppf(0.95, repetitions, 0.05)


def test_one_training_on_each_side_would_call_seeds_different() -> None:
    """Why two single trainings tell nothing of heads: their interval knows nothing of the spread over seeds."""
    repetitions, random = 200, np.random.Generator(np.random.Philox(6))
    found = [estimate(*train_heads(random, (1, 1), truth=0.0, row_noise=0.0), 400) for _ in range(repetitions)]
    assert all(entry.standard_error is None for entry in found)
    assert sum(entry.excludes_zero for entry in found) / repetitions > 0.2


@pytest.mark.parametrize("row_noise", [0.01, 0.1])
@pytest.mark.parametrize("sides", [(4, 4), (1, 3), (2, 3)], ids=str)
def test_intervals_of_seeds_cover_the_truth_over_trainings_and_rows(sides: tuple[int, int], row_noise: float) -> None:
    repetitions, random, truth = 600, np.random.Generator(np.random.Philox(7)), -0.003
    covered = 0
    for _ in range(repetitions):
        found = estimate(*train_heads(random, sides, truth, row_noise), 200)
        covered += found.low <= 100 * truth <= found.high
    assert covered / repetitions >= 0.93


@exact
@given(seed=st.integers(0, 100), models=st.integers(1, 4))
def test_a_head_differs_from_itself_by_exactly_0(seed: int, models: int) -> None:
    losses = dict(enumerate(random_losses(seed, models)))
    found = estimate(losses, {number: loss_K.copy() for number, loss_K in losses.items()}, 50)
    assert (found.relative, found.low, found.high) == (0, 0, 0)
    assert not found.excludes_zero


@exact
@given(seed=st.integers(0, 100), factor=st.floats(0.5, 2), scale=st.sampled_from([1e-6, 1.0, 1e9]))
def test_a_constant_factor_has_no_uncertainty_and_units_do_not_matter(seed: int, factor: float, scale: float) -> None:
    (loss_K,) = random_losses(seed, 1)
    found = estimate({1: loss_K * scale}, {2: loss_K * factor * scale}, 50)
    for value in (found.relative, found.low, found.high):
        assert value == pytest.approx(100 * (factor - 1), abs=1e-9)


def test_pairs_by_seed_and_mean_against_mean() -> None:
    first, second, third, fourth = random_losses(3, 4)
    paired = estimate({1: first, 2: second}, {2: fourth, 1: third})
    ratios = [100 * (third.sum() / first.sum() - 1), 100 * (fourth.sum() / second.sum() - 1)]
    assert paired.relative == pytest.approx(np.mean(ratios))
    assert paired.standard_error == pytest.approx(stats.sem(ratios))
    unpaired = estimate({1: first, 2: second}, {3: third, 4: fourth})
    totals = [loss_K.sum() for loss_K in (first, second, third, fourth)]
    assert unpaired.relative == pytest.approx(100 * (sum(totals[2:]) / sum(totals[:2]) - 1))
    expected = stats.ttest_ind(totals[2:], totals[:2]).statistic
    assert unpaired.standard_error is not None
    assert unpaired.relative / unpaired.standard_error == pytest.approx(expected, rel=0.01)


def test_every_draw_holds_as_many_buckets_as_there_are() -> None:
    draws_RK = bucket_draws(BUCKETS, RESAMPLES)
    assert (draws_RK.sum(axis=1) == BUCKETS).all()
    assert draws_RK.var() == pytest.approx(1, abs=0.01)
    assert (draws_RK == bucket_draws.__wrapped__(BUCKETS, RESAMPLES)).all()


def test_few_buckets_with_rows() -> None:
    """Two rows say nothing of others; from 30 buckets on there is an interval, draws without any row left out."""
    first_K = np.zeros(BUCKETS)
    first_K[:FEWEST_BUCKETS] = 1.0
    change_K = np.resize([1.1, 1.2], BUCKETS)
    found = estimate({1: first_K}, {1: first_K * change_K})
    assert found.relative == pytest.approx(15)
    assert 10 < found.low < 15 < found.high < 20
    first_K[FEWEST_BUCKETS - 1] = 0
    for sides in ({1: first_K}, {1: first_K, 2: 1.01 * first_K}):
        few = estimate({1: first_K}, {seed: loss_K * change_K for seed, loss_K in sides.items()})
        assert (few.low, few.high) == (-math.inf, math.inf)
        assert not few.excludes_zero


@pytest.mark.parametrize("loss", [0.0, math.nan, math.inf])
def test_no_loss_to_divide_by(loss: float) -> None:
    ones_K = np.ones(BUCKETS)
    assert compare_losses({1: np.full(BUCKETS, loss), 2: ones_K}, {1: ones_K}) is None


def test_quantiles_of_student_t() -> None:
    for freedom in (*range(1, 40), 100, 1000):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=5e-4)


@exact
@given(st.integers(0, 10_000), st.integers(2, 5), st.floats(-0.03, 0.03))
def test_the_p_value_says_at_which_confidence_the_interval_ends_at_zero(seed: int, seeds: int, shift: float) -> None:
    losses = random_losses(seed, 2 * seeds)
    baseline = dict(enumerate(losses[:seeds]))
    found = estimate(baseline, {number: (1 + shift) * loss for number, loss in enumerate(losses[seeds:])}, 200)
    assert found.p_value is not None
    if not math.isclose(found.p_value, 0.05, rel_tol=0.01):
        assert (found.p_value < 0.05) == found.excludes_zero


def test_the_p_value_is_that_of_a_paired_t_test_where_rows_add_nothing() -> None:
    base = np.ones(BUCKETS)
    factors = (1.01, 1.02, 1.005, 1.03)  # every bucket alike: each draw of them gives the same difference
    found = estimate(dict.fromkeys(range(4), base), {seed: factor * base for seed, factor in enumerate(factors)})
    expected = stats.ttest_1samp(100 * (np.array(factors) - 1), 0.0).pvalue
    assert found.p_value == pytest.approx(expected, rel=5e-3)
    assert estimate({1: base}, {1: 1.1 * base}).p_value is None  # one training on each side says nothing of heads
