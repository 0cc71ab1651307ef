"""Metrics against scikit-learn, torchrec.metrics and plain float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score
from torchrec.metrics.metrics_config import DefaultTaskInfo
from torchrec.metrics.ne import NEMetric
from torchrec.metrics.rec_metric import RecComputeMode

from models.ranker import StepOutput
from tests.ranks import run_on_ranks
from trainer.distributed.world import World
from trainer.evaluation.accumulator import TaskValues
from trainer.evaluation.auc import ExactAuc, margin
from trainer.evaluation.metrics import MetricSums


def _random_rows(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logits, labels and weights of a binary and a regression task; some weights are 0."""
    generator = torch.Generator().manual_seed(seed)
    logits_BT = torch.randn(rows, 2, generator=generator) * 2 - 1
    clicks_B = (torch.rand(rows, generator=generator) < logits_BT[:, 0].sigmoid()).float()
    watched_B = logits_BT[:, 1] + torch.randn(rows, generator=generator)
    weights_BT = torch.rand(rows, 2, generator=generator) * (torch.rand(rows, 2, generator=generator) < 0.9)
    return logits_BT, torch.stack([clicks_B, watched_B], dim=1), weights_BT


def _sums(*batches: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> MetricSums:
    sums = MetricSums(torch.tensor([True, False]))
    for batch in batches:
        sums.add(*batch)
    return sums


def test_against_scikit_learn() -> None:
    batches = [_random_rows(5_000, seed) for seed in range(3)]
    click, watch = _sums(*batches).compute()
    logits_BT, labels_BT, weights_BT = (torch.cat(parts).double().numpy() for parts in zip(*batches, strict=True))
    label_B, weight_B = labels_BT[:, 0], weights_BT[:, 0]
    probability_B = 1 / (1 + np.exp(-logits_BT[:, 0]))
    expected = log_loss(label_B, probability_B, sample_weight=weight_B)
    rate = np.average(label_B, weights=weight_B)
    assert click.examples == int((weight_B > 0).sum())
    assert click.log_loss == pytest.approx(expected, rel=1e-9)
    assert click.ne == pytest.approx(expected / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)), rel=1e-9)
    assert click.calibration == pytest.approx(np.average(probability_B, weights=weight_B) / rate, rel=1e-9)
    auc = roc_auc_score(label_B, probability_B, sample_weight=weight_B)
    assert click.auc is not None
    assert click.auc_error is not None
    assert abs(click.auc - auc) <= click.auc_error < 1e-4
    squared = mean_squared_error(labels_BT[:, 1], logits_BT[:, 1], sample_weight=weights_BT[:, 1])
    assert watch.mse == pytest.approx(squared, rel=1e-9)
    assert (watch.ne, watch.auc, click.mse) == (None, None, None)


def test_ne_against_torchrec() -> None:
    logits_BT, labels_BT, weights_BT = _random_rows(4_000, 7)
    metric = NEMetric(
        world_size=1,
        my_rank=0,
        batch_size=4_000,
        tasks=[DefaultTaskInfo],
        compute_mode=RecComputeMode.UNFUSED_TASKS_COMPUTATION,
        window_size=4_000,
    )
    name = DefaultTaskInfo.name
    metric.update(
        predictions={name: logits_BT[:, 0].double().sigmoid()},
        labels={name: labels_BT[:, 0].double()},
        weights={name: weights_BT[:, 0].double()},
    )
    values = {key: float(value) for key, value in metric.compute().items()}
    found = _sums((logits_BT, labels_BT, weights_BT)).compute()[0].ne
    assert found == pytest.approx(next(value for key, value in values.items() if "lifetime_ne" in key), rel=1e-6)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_ne_and_no_auc(label: float) -> None:
    rows = 10
    labels_BT = torch.full((rows, 2), label)
    click, _ = _sums((torch.zeros(rows, 2), labels_BT, torch.ones(rows, 2))).compute()
    assert (click.ne, click.auc) == (None, None)
    assert click.log_loss == pytest.approx(math.log(2))


def test_no_labelled_row() -> None:
    click, watch = _sums((torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 2))).compute()
    assert (click.examples, click.log_loss, watch.mse) == (0, None, None)


def test_constant_predictor_has_ne_1() -> None:
    labels_B = torch.tensor([1.0, 0, 0, 0])
    logit = math.log(0.25 / 0.75)
    click, _ = _sums(
        (torch.full((4, 2), logit, dtype=torch.float64), labels_B[:, None].expand(4, 2), torch.ones(4, 2))
    ).compute()
    assert click.ne == pytest.approx(1, rel=1e-12)
    assert click.auc == 0.5


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _filled(batches: list[Batch]) -> ExactAuc:
    exact = ExactAuc(torch.tensor([True, False]), sum(len(logits_BT) for logits_BT, _, _ in batches))
    for logits_BT, labels_BT, weights_BT in batches:
        exact.update(StepOutput(logits_BT, labels_BT, weights_BT, torch.zeros(2), torch.arange(len(logits_BT))))
    return exact


def _exact_auc(world: World, shares: list[list[Batch]]) -> list[TaskValues]:
    return _filled(shares[world.rank]).compute(world)


def _values(auc: Any) -> list[TaskValues]:
    """Of a binary task with this exact AUC, and of a regression task."""
    return [{"auc": auc, "auc_error": None if auc is None else 0.0}, {}]


@pytest.mark.parametrize("ranks", [1, 2])
def test_exact_auc_against_scikit_learn(ranks: int) -> None:
    """With weights, rows that do not count, and many tied logits, half of them in batches of another rank."""
    batches = []
    for seed in range(4):
        logits_BT, labels_BT, weights_BT = _random_rows(2_000, seed)
        batches.append(((logits_BT * 8).round() / 8, labels_BT, weights_BT))
    found = run_on_ranks(ranks, _exact_auc, [batches[rank::ranks] for rank in range(ranks)])
    logits_BT, labels_BT, weights_BT = (torch.cat(parts).double().numpy() for parts in zip(*batches, strict=True))
    expected = roc_auc_score(labels_BT[:, 0], logits_BT[:, 0], sample_weight=weights_BT[:, 0])
    assert found == [_values(pytest.approx(expected, rel=1e-12))] * ranks


def _exact_auc_by(
    world: World, shares: list[list[Batch]], groups: list[list[torch.Tensor]]
) -> dict[int, list[float | None]]:
    return _filled(shares[world.rank]).compute_by(world, torch.cat(groups[world.rank]), 6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_exact_auc_within_groups_against_scikit_learn(ranks: int) -> None:
    """Groups on both ranks, one of a single row, and one without any."""
    batches, groups = [], []
    for seed in range(4):
        logits_BT, labels_BT, weights_BT = _random_rows(500, seed)
        batches.append(((logits_BT * 8).round() / 8, labels_BT, weights_BT + 0.01))
        groups.append(torch.randint(0, 4, (500,), generator=torch.Generator().manual_seed(seed)))
    groups[3][7] = 5
    shares = [batches[rank::ranks] for rank in range(ranks)], [groups[rank::ranks] for rank in range(ranks)]
    found = run_on_ranks(ranks, _exact_auc_by, *shares)
    logits_BT, labels_BT, weights_BT = (torch.cat(parts).double().numpy() for parts in zip(*batches, strict=True))
    group_B = torch.cat(groups).numpy()
    expected: list[Any] = []
    for group in range(4):
        chosen = group_B == group
        auc = roc_auc_score(labels_BT[chosen, 0], logits_BT[chosen, 0], sample_weight=weights_BT[chosen, 0])
        expected.append(pytest.approx(auc, rel=1e-12))
    assert found == [{0: [*expected, None, None]}] * ranks


def test_exact_auc_tells_apart_what_the_histogram_does_not() -> None:
    logits_BT = torch.tensor([[20.0, 0.0], [30.0, 0.0]])
    batch = (logits_BT, torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.ones(2, 2))
    coarse = _sums(batch).compute()[0]
    assert (coarse.auc, coarse.auc_error) == (0.5, 0.5)
    assert run_on_ranks(1, _exact_auc, [[batch]]) == [_values(1.0)]


def test_exact_auc_of_labels_all_alike_is_not_defined() -> None:
    batch = (torch.randn(5, 2), torch.ones(5, 2), torch.ones(5, 2))
    assert run_on_ranks(1, _exact_auc, [[batch]]) == [_values(None)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_exact_auc_of_predictions_that_are_not_finite_is_not_defined(value: float) -> None:
    logits_BT, labels_BT, weights_BT = _random_rows(50, 3)
    weights_BT[3] = 0
    logits_BT[3] = value
    (counted,) = run_on_ranks(1, _exact_auc, [[(logits_BT, labels_BT, weights_BT)]])
    assert counted[0]["auc"] is not None
    weights_BT[3] = 1
    assert run_on_ranks(1, _exact_auc, [[(logits_BT, labels_BT, weights_BT)]]) == [_values(None)]


def test_margin_shows_where_it_would_change_a_figure() -> None:
    assert [margin(error) for error in (None, 0.0, 0.00004, 0.00012)] == ["", "", "", " ± 0.0001"]


def test_logits_beyond_the_range_of_integers_keep_their_order() -> None:
    logits_BT = torch.tensor([[1e20, 0.0], [-3.0, 0.0], [-1e30, 0.0]])
    click = _sums((logits_BT, torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), torch.ones(3, 2))).compute()[0]
    assert (click.auc, click.auc_error) == (1.0, 0.0)


def test_predictions_that_are_not_finite() -> None:
    """They count nowhere on rows of weight 0, and leave no metric, and no NaN, on others."""
    batch = _random_rows(100, 1)
    logits_BT, labels_BT, weights_BT = (tensor.clone() for tensor in batch)
    weights_BT[7] = 0
    expected = _sums((logits_BT, labels_BT, weights_BT)).compute()
    logits_BT[7] = math.inf
    assert _sums((logits_BT, labels_BT, weights_BT)).compute() == expected
    for value in (math.nan, math.inf):
        logits_BT[3], weights_BT[3] = value, 1.0
        labels_BT[3] = 0.0
        for found in _sums((logits_BT, labels_BT, weights_BT)).compute():
            assert found.examples > 0
            assert (found.ne, found.auc, found.log_loss, found.mse, found.prediction_mean) == (None,) * 5
