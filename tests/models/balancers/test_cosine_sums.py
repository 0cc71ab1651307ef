"""Means of cosines over steps are those of a plain loop, whatever is missing in some of the steps."""

import math

import pytest
import torch

from models.balancers.cosine_sums import CosineSums
from tests.models.balancers.gradients import gram, random_gradients, rows


def test_means_are_those_of_a_loop() -> None:
    sums = CosineSums(3)
    sums.begin(512)
    steps = [random_gradients(3, seed) for seed in range(20)]
    for gradient_TF in steps:
        sums.add(gram(gradient_TF))
    means = sums.means()
    assert (means.since, means.steps) == (512, 20)
    for one in range(3):
        for other in range(3):
            cosines = [torch.cosine_similarity(step[one], step[other], dim=0).item() for step in steps]
            assert means.cosine_TT[one, other].item() == pytest.approx(sum(cosines) / 20)
            assert means.below_zero_TT[one, other].item() == sum(cosine < 0 for cosine in cosines) / 20


def test_a_gradient_of_0_or_beyond_all_numbers_counts_in_no_pair() -> None:
    sums = CosineSums(3)
    sums.add(gram(rows((1.0, 0.0), (-2.0, 0.0), (0.0, 0.0))))
    sums.add(gram(rows((1.0, 0.0), (math.nan, 0.0), (0.0, 0.0))))
    sums.add(gram(rows((1.0, 0.0), (math.inf, 0.0), (0.0, 0.0))))
    means = sums.means()
    assert means.steps == 3
    assert (means.cosine_TT[0, 1], means.below_zero_TT[0, 1]) == (-1, 1)
    assert means.cosine_TT[2].isnan().all()
    assert means.cosine_TT[0, 0] == 1


def test_parallel_gradients_have_no_cosine_beyond_1() -> None:
    gradient_TF = torch.full((2, 7), 0.1, dtype=torch.float64) * torch.tensor([[1.0], [3.0]])
    sums = CosineSums(2)
    sums.add(gram(gradient_TF))
    assert (sums.means().cosine_TT <= 1).all()


def test_what_the_device_finds_unsound_leaves_no_trace() -> None:
    sums = CosineSums(2)
    sums.add(gram(random_gradients(2, 0)), torch.tensor(0.0))
    before = {name: value.clone() for name, value in sums.state_dict().items()}
    for bad in (gram(random_gradients(2, 1)), torch.full((2, 2), torch.nan)):
        sums.add(bad, torch.tensor(1.0))
    assert before["steps"] == 1
    for name, value in sums.state_dict().items():
        assert torch.equal(value, before[name]), name
    sums.begin(7)
    assert (sums.means().steps, sums.means().since, sums.sums_3TT.any().item()) == (0, 7, False)
