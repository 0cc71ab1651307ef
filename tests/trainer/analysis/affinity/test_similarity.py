"""Representation similarity against scipy, pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from trainer.analysis.affinity.similarity import affinities, dissimilarities


def activations(seed: int, rows: int, units: int) -> np.ndarray:
    """As behind a ReLU: many zeros, no row with equal units."""
    drawn = np.random.Generator(np.random.Philox(seed)).normal(size=(rows, units)).clip(min=0)
    drawn[:, 0] += 1 + np.arange(rows) / rows
    return drawn.astype("float32")


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(3, 12), st.integers(3, 9))
def test_dissimilarities_are_those_of_scipy(seed: int, rows: int, units: int) -> None:
    x = activations(seed, rows, units)
    expected = [
        1 - pearsonr(x[i].astype(float), x[j].astype(float))[0] for i in range(rows) for j in range(i + 1, rows)
    ]
    assert dissimilarities(x) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(4, 12))
def test_affinities_are_those_of_scipy(seed: int, rows: int) -> None:
    tasks = [activations(seed + task, rows, units) for task, units in enumerate((3, 5, 8))]
    found = affinities(tasks)
    for one, x in enumerate(tasks):
        for other, y in enumerate(tasks):
            expected = spearmanr(dissimilarities(x), dissimilarities(y))[0]
            assert found[one, other] == pytest.approx(expected, abs=1e-12)


def test_what_does_not_change_the_order_of_pairs_does_not_change_the_affinity() -> None:
    x = activations(1, 40, 6).astype(float)
    scaled = 3 * x[:, ::-1] + np.arange(40)[:, None]  # units in another order, rows scaled and moved
    assert affinities([x, scaled]) == pytest.approx(np.ones((2, 2)), abs=1e-9)


def test_equal_dissimilarities_have_equal_ranks() -> None:
    """Two units are in one order or the other: pairs of rows agree, or they do not."""
    x = np.random.Generator(np.random.Philox(3)).normal(size=(60, 2))
    moved = x / 7 + np.random.Generator(np.random.Philox(4)).normal(size=(60, 1))
    assert set(dissimilarities(x)) == set(dissimilarities(moved)) == {0, 2}
    assert affinities([x, moved]) == pytest.approx(np.ones((2, 2)), abs=1e-12)


def test_rows_without_differences() -> None:
    x = activations(1, 5, 4)
    x[2] = 0
    distances = dissimilarities(x)
    pairs = list(zip(*np.triu_indices(5, 1), strict=True))
    assert [distances[pair] for pair, rows in enumerate(pairs) if 2 in rows] == [1] * 4
    assert np.isnan(affinities([np.zeros((5, 4)), x])).tolist() == [[True, True], [True, False]]
