"""The calibration curve against the rows themselves."""

import numpy as np
import pytest
import torch

from trainer.evaluation.calibration import GROUPS, CalibrationCurve, calibration_curve
from trainer.evaluation.metrics import MetricSums


def _curve(logits_B: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor) -> CalibrationCurve | None:
    sums = MetricSums(torch.tensor([False, True]))
    rows = (logits_B, labels_B, weights_B)
    sums.add(*(torch.stack([torch.zeros_like(row), row], dim=1) for row in rows))
    return calibration_curve("click", sums, 1, sums.compute()[1])


@pytest.mark.parametrize("weighted", [False, True])
def test_groups_are_tenths_of_the_sorted_rows(weighted: bool) -> None:
    random = torch.Generator().manual_seed(3)
    logits_B = torch.randn(40_000, generator=random) - 3
    labels_B = (torch.rand(40_000, generator=random) < (1.2 * logits_B).sigmoid()).float()
    weights_B = torch.rand(40_000, generator=random) + 0.5 if weighted else torch.ones(40_000)
    curve = _curve(logits_B, labels_B, weights_B)
    assert curve is not None
    order = np.argsort(logits_B.numpy())
    predicted, observed, weight = (
        tensor.double().numpy()[order] for tensor in (logits_B.double().sigmoid(), labels_B, weights_B)
    )
    group = np.minimum((GROUPS * (weight.cumsum() - weight / 2) / weight.sum()).astype(int), GROUPS - 1)
    for place in range(GROUPS):
        of_group = group == place
        assert curve.predicted[place] == pytest.approx(
            np.average(predicted[of_group], weights=weight[of_group]), rel=2e-3
        )
        rate = np.average(observed[of_group], weights=weight[of_group])
        assert curve.observed[place] == pytest.approx(rate, abs=3 / of_group.sum())
        assert curve.low[place] < curve.observed[place] < curve.high[place]
    np.testing.assert_allclose(curve.share, np.arange(0.05, 1, 0.1), atol=1e-3)


def test_intervals_hold_the_rate_of_a_calibrated_model() -> None:
    random = torch.Generator().manual_seed(5)
    inside = total = 0
    for _ in range(40):
        logits_B = torch.randn(5_000, generator=random) - 1
        labels_B = (torch.rand(5_000, generator=random) < logits_B.sigmoid()).float()
        curve = _curve(logits_B, labels_B, torch.ones(5_000))
        assert curve is not None
        for low, predicted, high in zip(curve.low, curve.predicted, curve.high, strict=True):
            inside, total = inside + (low <= predicted <= high), total + 1
    assert total == 400
    assert 0.92 <= inside / total <= 0.98


def test_predictions_all_alike_are_one_group() -> None:
    curve = _curve(torch.zeros(100), torch.tensor([1.0] * 25 + [0.0] * 75), torch.ones(100))
    assert curve is not None
    assert (len(curve.observed), curve.observed, curve.share) == (1, [0.25], [0.5])
    assert curve.predicted == [pytest.approx(0.5, abs=1e-3)]


def test_no_rows_no_curve() -> None:
    assert _curve(torch.zeros(3), torch.zeros(3), torch.zeros(3)) is None
