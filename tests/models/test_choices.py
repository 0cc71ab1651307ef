"""Choices that are sampled in training: their temperature, their noise, and what evaluation makes of them.

Shapes: N choices, C entries.
"""

from typing import Any

import pytest
import torch

from models.heads.related.adashare import AdaShareConfig
from models.heads.related.choices import Choices
from tests.models.heads import assert_close

SCORES = torch.tensor([0.5, -1.0, 1.5])


def make_choices(num: int, **keys: Any) -> Choices:
    choices = Choices(AdaShareConfig(**keys), num, len(SCORES)).double()
    with torch.no_grad():
        choices.slow_scores.copy_(SCORES / 10)
    return choices


# ---- temperature


@pytest.mark.parametrize(
    ("samples", "temperature"),
    [(0, 8.0), (99, 8.0), (100, 8.0), (110, 4.0), (115, 8 * 0.5**1.5), (140, 0.5), (141, 0.5), (10**18, 0.5)],
)
def test_the_temperature_halves_after_the_warmup(samples: int, temperature: float) -> None:
    config = AdaShareConfig(temperature=8, warmup_samples=100, halving_samples="10", lowest_temperature=0.5)
    assert config.temperature_at(samples) == pytest.approx(temperature, rel=1e-12)


def test_the_lower_the_temperature_the_harder_the_choice() -> None:
    choices = make_choices(1000)
    largest = []
    for temperature in (10.0, 1.0, 0.1, 1e-3):
        choices.begin(seed=1, temperature=temperature)
        largest.append(choices().amax(dim=1).mean().item())
    assert largest == sorted(largest)
    assert largest[0] < 0.45
    assert largest[-1] > 0.999


# ---- noise


def test_noise_is_that_of_its_seed() -> None:
    choices = make_choices(4)
    drawn = []
    for seed in (1, 2, 1):
        choices.begin(seed, temperature=1)
        drawn.append(choices.noise.clone())
    assert torch.equal(drawn[0], drawn[2])
    assert (drawn[0] != drawn[1]).all()
    assert len(drawn[0].unique()) == drawn[0].numel()


@pytest.mark.parametrize("sampling", ["soft", "hard"])
def test_an_entry_is_chosen_as_often_as_its_score_says(sampling: str) -> None:
    choices = make_choices(100_000, sampling=sampling)
    choices.begin(seed=1, temperature=0.5)
    share_C = torch.zeros(3).index_add(0, choices().argmax(dim=1), torch.ones(100_000)) / 100_000
    torch.testing.assert_close(share_C, SCORES.softmax(dim=0), rtol=0, atol=0.005)


def test_a_hard_sample_has_the_gradient_of_the_soft_one() -> None:
    weight_NC = torch.arange(15, dtype=torch.float64).view(5, 3)
    soft, hard = (make_choices(5, sampling=sampling) for sampling in ("soft", "hard"))
    for choices in (soft, hard):
        choices.begin(seed=3, temperature=2)
        (choices() * weight_NC).sum().backward()
    assert_close(hard.slow_scores.grad, soft.slow_scores.grad)
    assert_close(hard(), torch.nn.functional.one_hot(soft().argmax(dim=1), 3).double())


# ---- evaluation


def test_evaluation_takes_the_greatest_score_whatever_the_step() -> None:
    choices = make_choices(2).eval()
    for seed, temperature in ((1, 5.0), (2, 0.1)):
        choices.begin(seed, temperature)
        assert choices().tolist() == [[0, 0, 1]] * 2


def test_of_equal_scores_the_first_is_taken() -> None:
    choices = make_choices(2).eval()
    choices.reset_parameters()
    assert choices().tolist() == [[1, 0, 0]] * 2
