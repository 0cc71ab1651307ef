"""How sure a relative difference between two heads is: paired bootstrap over buckets of test rows, t over seeds.

Every model is given as its loss per bucket: the weighted sum of log losses or squared errors over the test rows of each
bucket. Models on the same rows share weights and labels, and what NE and MSE divide the loss by is the same for both in
any multiset of buckets. It cancels, so the relative difference of NE, and that of MSE, is that of the summed losses.

Two things make a difference uncertain, and which of them an interval holds says what it speaks of:

- which rows the test set happens to hold. The bootstrap draws buckets with replacement, the same draw for both models.
  One model on each side has no more than this: its interval speaks of these two models on such rows, and says nothing
  of the heads, since two trainings of one head differ as well.
- how the training happened to go: the spread over seeds. With several models on a side the interval is for the mean
  over trainings on such rows: ± sqrt((t SE)² + (z σ)²), where SE is the standard error over seeds and σ² the covariance
  over draws between differences that share no model. Noise of the rows that differs from model to model is in SE
  already; σ² is what the rows do to all of them alike, and does not shrink with more seeds.

What is drawn must be independent. Rows of one user are not: `trainer.evaluation.row_buckets` puts them into one bucket.
Where a few buckets hold most of the loss, as those of heavy users do, draws vary too little: as if a variance were
divided by n in place of n - 1, and the normal distribution taken for Student's t. Intervals are widened by both, with
the effective number of buckets for n: (Σ loss)² / Σ loss² (Kish, Survey Sampling, 1965).

Shapes: K buckets, R draws (resamples), P pairs of models.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 2_000
FEWEST_BUCKETS = 30
"""Rows of a task in fewer buckets than this give no interval."""
FEWEST_EFFECTIVE = 2
"""Effective number of buckets below which there is no variance to estimate."""
_TAIL = (1 + CONFIDENCE) / 2
_Z = float(ndtri(_TAIL))
_SMALLEST_P = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A relative difference in per cent; below 0 the loss is lower than the baseline's."""

    relative: float
    low: float
    high: float
    """The 95 % interval: over test rows for one model on each side, else over trainings and test rows.

    From minus to plus infinity if the rows lie in fewer than FEWEST_BUCKETS, or one of these holds nearly all loss.
    """
    standard_error: float | None
    """Over seeds; None for one model on each side."""
    p_value: float | None = None
    """Of no difference between the heads; None for one model on each side, or too few buckets."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def compare_losses(
    baseline: Mapping[int, Floats], losses: Mapping[int, Floats], resamples: int = RESAMPLES
) -> Estimate | None:
    """Relative difference of `losses` to `baseline`, each one head's losses per bucket (K), by seed.

    The same seeds on both sides: each model against the baseline of its seed (they share the order of the data), and
    the mean of that. Otherwise mean against mean, and a side with one model is taken to spread like the other.
    None if the baseline has no loss to divide by, or a loss is not finite.
    """
    old_totals = _totals(baseline)
    new_totals = _totals(losses)
    if not (np.isfinite([*old_totals, *new_totals]).all() and (old_totals > 0).all()):
        return None

    paired = baseline.keys() == losses.keys()
    pairs = [(old, new) for old in sorted(baseline) for new in sorted(losses) if old == new or not paired]
    relatives: list[float] = []
    draws: list[Floats] = []

    for old, new in pairs:
        relative, drawn_R = _relative(baseline[old], losses[new], resamples)
        relatives.append(relative)
        draws.append(drawn_R)

    finite_PR = _finite(np.array(draws))
    widening = max(map(_widening, baseline.values()))

    if len(pairs) == 1:
        return _estimate_of_pair(relatives[0], finite_PR[0], widening)

    relative_P = np.array(relatives)
    relative, error, freedom = _over_pairs(relative_P) if paired else _over_sides(old_totals, new_totals)
    if widening == math.inf:
        return Estimate(relative, -math.inf, math.inf, error)

    # What the seeds and what the test rows leave open are independent: their halves add up in squares.
    of_rows = widening * _shared_deviation(pairs, finite_PR)
    half = math.hypot(t_quantile(freedom) * error, _Z * of_rows)
    p_value = _p_value(relative, error, freedom, of_rows)

    return Estimate(relative, relative - half, relative + half, error, p_value)


def _estimate_of_pair(relative: float, drawn_R: Floats, widening: float) -> Estimate:
    """Of two models: the percentile interval, widened around the difference where buckets are few."""
    if widening == math.inf:
        return Estimate(relative, -math.inf, math.inf, None)

    quantiles_2 = np.quantile(drawn_R, (1 - _TAIL, _TAIL))
    low, high = relative + widening * (quantiles_2 - relative)
    return Estimate(relative, float(low), float(high), None)


def _widening(loss_K: Floats) -> float:
    """How much wider than the draws an interval over these buckets is; infinity if they are too few for one."""
    effective = int(loss_K.sum() ** 2 / np.square(loss_K).sum())
    if np.count_nonzero(loss_K) < FEWEST_BUCKETS or effective < FEWEST_EFFECTIVE:
        return math.inf

    of_small_sample = math.sqrt(effective / (effective - 1))
    return of_small_sample * t_quantile(effective - 1) / _Z


def _relative(baseline_K: Floats, loss_K: Floats, resamples: int) -> tuple[float, Floats]:
    """The relative difference of two models in per cent, and the same in every draw (R).

    Summed as differences, so that equal models differ by exactly 0.
    """
    difference_K = loss_K - baseline_K
    draws_RK = bucket_draws(len(baseline_K), resamples)
    drawn_R = draws_RK @ difference_K
    total_R = draws_RK @ baseline_K

    # A draw may hold no loss of the baseline: its difference is not finite, and left out by `_finite`.
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = float(100 * difference_K.sum() / baseline_K.sum())
        return relative, 100 * drawn_R / total_R


@lru_cache(maxsize=8)
def bucket_draws(num_buckets: int, resamples: int) -> Floats:
    """How often each bucket is drawn in each resample (R, K): the same in every comparison."""
    random = np.random.Generator(np.random.Philox(17))
    equal_K = np.full(num_buckets, 1 / num_buckets)
    drawn_RK = random.multinomial(num_buckets, equal_K, size=resamples)
    return np.asfortranarray(drawn_RK, np.float64)  # its product with a vector is ten times as fast in this layout


def _finite(drawn_PR: Floats) -> Floats:
    """Without the draws that hold no loss of some baseline model, as happens where few buckets have rows of a task."""
    finite_PR: Floats = drawn_PR[:, np.isfinite(drawn_PR).all(axis=0)]
    return finite_PR


def _totals(losses: Mapping[int, Floats]) -> Floats:
    return np.array([losses[seed].sum() for seed in sorted(losses)])


def _over_pairs(relative_P: Floats) -> tuple[float, float, int]:
    """Mean, standard error and degrees of freedom of differences that are independent of one another."""
    num_pairs = len(relative_P)
    error = float(relative_P.std(ddof=1)) / math.sqrt(num_pairs)
    return float(relative_P.mean()), error, num_pairs - 1


def _over_sides(baseline: Floats, losses: Floats) -> tuple[float, float, int]:
    """Relative difference of the means in per cent, its standard error and degrees of freedom.

    The relative spread over seeds is pooled over both sides, as in Student's test of two samples: the only way to
    judge a side with one model, and exact where both are the same head.
    """
    ratio = float(losses.mean() / baseline.mean())
    squares = _relative_squares(baseline) + _relative_squares(losses)
    freedom = len(baseline) + len(losses) - 2
    per_model = 1 / len(baseline) + 1 / len(losses)
    error = ratio * math.sqrt(squares / freedom * per_model)
    return 100 * (ratio - 1), 100 * error, freedom


def _relative_squares(side: Floats) -> float:
    """Sum of squared relative distances from the mean."""
    distance = side / side.mean() - 1
    return float(np.square(distance).sum())


def _shared_deviation(pairs: list[tuple[int, int]], drawn_PR: Floats) -> float:
    """Root of the mean covariance over draws between pairs that share no model.

    A side with a single model is in every pair: its own noise then counts as shared, which widens the interval.
    """
    apart_PP = np.ones((len(pairs), len(pairs)), bool)
    for seed_P in np.array(pairs).T:
        if len(np.unique(seed_P)) > 1:
            apart_PP &= seed_P[:, None] != seed_P
    mean_covariance = float(np.cov(drawn_PR)[apart_PP].mean())
    return math.sqrt(max(mean_covariance, 0.0))


def t_quantile(freedom: int) -> float:
    """Quantile of Student's t at 97.5 %: half a 95 % interval in standard errors."""
    return float(stdtrit(freedom, _TAIL))


def _p_value(distance: float, error: float, freedom: int, rows: float) -> float:
    """Of no difference: 1 less the confidence at which the interval ends at 0; half of it is sqrt((t SE)² + (z σ)²).

    `error`: SE; `rows`: σ. Found by halving on a logarithmic scale, to a thousandth of itself.
    """
    low, high = math.log(_SMALLEST_P), 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        upper = 1 - math.exp(middle) / 2
        half = math.hypot(stdtrit(freedom, upper) * error, ndtri(upper) * rows)
        low, high = (low, middle) if half < abs(distance) else (middle, high)

    return math.exp(high)
