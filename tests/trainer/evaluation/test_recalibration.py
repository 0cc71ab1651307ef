"""NE after recalibration against a fit of the shift to the rows themselves."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.losses import entropy
from trainer.evaluation.metrics import BINS, LOGIT_RANGE, MetricSums
from trainer.evaluation.recalibration import recalibrated_ne

Float64 = NDArray[np.float64]
BIN_WIDTH = 2 * LOGIT_RANGE / BINS


def _recalibrated(logits: Float64, labels: Float64, weights: Float64) -> tuple[float | None, float | None]:
    """NE after recalibration, and before, of the second task."""
    sums = MetricSums(torch.tensor([False, True]))
    columns = (torch.from_numpy(column) for column in (logits, labels, weights))
    sums.add(*(torch.stack([torch.zeros_like(column), column], dim=1) for column in columns))
    metrics = sums.compute()
    assert recalibrated_ne(sums, 0, metrics[0]) is None
    return recalibrated_ne(sums, 1, metrics[1]), metrics[1].ne


def _fit(logits: Float64, labels: Float64, weights: Float64) -> tuple[float, float]:
    """NE after the best shift, and the shift: Newton's method on the rows, with steps of 1 at most."""
    shift = 0.0
    for _ in range(60):
        predicted = 1 / (1 + np.exp(-logits - shift))
        slope = (weights * (predicted - labels)).sum()
        curvature = (weights * predicted * (1 - predicted)).sum()
        shift -= np.clip(slope / curvature, -1, 1)

    losses = np.logaddexp(0, logits + shift) - labels * (logits + shift)
    rate = np.average(labels, weights=weights)
    return float(np.average(losses, weights=weights)) / entropy(rate), shift


def _draw_rows(rows: int, offset: float) -> tuple[Float64, Float64, Float64]:
    """Log odds that are too high by `offset`, with weights."""
    random = np.random.default_rng(6)
    logits = random.normal(size=rows) * 1.5 - 3
    labels = (random.random(rows) < 1 / (1 + np.exp(-logits))).astype(float)
    return logits + offset, labels, random.random(rows) + 0.5


@pytest.mark.parametrize("offset", [-2.0, -0.3, 0.0, 0.3, 4.0])
def test_against_a_fit_to_the_rows(offset: float) -> None:
    rows = _draw_rows(200_000, offset)
    expected, shift = _fit(*rows)
    assert shift == pytest.approx(-offset, abs=0.1)
    found, before = _recalibrated(*rows)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found is not None
    assert before is not None
    assert found <= before
    assert (before - found > 0.001) == (offset != 0)


ROW = st.tuples(st.floats(-15, 15), st.sampled_from([0.0, 1.0]), st.sampled_from([0.25, 1.0, 3.0]))


@given(st.lists(ROW, min_size=2, max_size=30))
def test_bins_change_it_by_no_more_than_is_said(rows: list[tuple[float, float, float]]) -> None:
    logits, labels, weights = np.array(rows).T
    found, before = _recalibrated(logits, labels, weights)
    if before is None:
        assert found is None
        return

    expected, shift = _fit(logits, labels, weights)
    bound = BIN_WIDTH / 2 * (abs(shift) + BIN_WIDTH) / 4 / entropy(np.average(labels, weights=weights))
    assert found is not None
    assert abs(found - expected) <= bound + 1e-7
    assert found <= before


def test_logits_beyond_the_histogram() -> None:
    logits, labels, weights = _draw_rows(5_000, 0.5)
    logits[:50] = 25.0
    labels[:45] = 1.0
    expected, _ = _fit(logits, labels, weights)
    found, _ = _recalibrated(logits, labels, weights)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_without_ne_there_is_none(label: float) -> None:
    assert _recalibrated(np.zeros(5), np.full(5, label), np.ones(5)) == (None, None)
    assert _recalibrated(np.full(5, math.inf), np.arange(5) % 2.0, np.ones(5)) == (None, None)
