import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchjd.scalarization import FAMO

from models.balancers.famo import FamoState, famo_start, famo_update, famo_weights


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_losses(num_steps: int, num_tasks: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_steps, num_tasks, generator=generator, dtype=torch.float64).exp()


@pytest.mark.parametrize("lowest", [None, [0.001, 0.0, 0.02]])
def test_weights_equal_torchjd_over_many_steps(lowest: list[float] | None) -> None:
    lowest_T = tensor(lowest or [0.0, 0.0, 0.0])
    expected = FAMO(3, min_losses=lowest_T).double()
    state, is_active_T = famo_start(3), torch.ones(3, dtype=torch.bool)

    losses = lowest_T + random_losses(60, 3, seed=0)
    for before_T, after_T in itertools.pairwise(losses):
        leaf_T = before_T.clone().requires_grad_()
        (expected_T,) = torch.autograd.grad(expected(leaf_T), leaf_T)
        found_T = famo_weights(state, before_T, is_active_T, lowest_T)
        torch.testing.assert_close(found_T, expected_T, rtol=1e-9, atol=1e-12)

        expected.update(after_T)
        state = famo_update(state, before_T, after_T, is_active_T, lowest_T)
    # The weights have moved, or the test would say little.
    assert state.logits_T.abs().min() > 0.01


def test_update_equals_adam_on_the_equations() -> None:
    """Sums and products of the paper's algorithm in plain Python, with torch's Adam."""
    logits_T = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits_T], lr=0.025, weight_decay=1e-3)
    state, is_active_T = famo_start(4), torch.ones(4, dtype=torch.bool)

    losses = random_losses(30, 4, seed=1)
    for before_T, after_T in itertools.pairwise(losses):
        exponentials = [math.exp(logit) for logit in logits_T.tolist()]
        shares = [exponential / sum(exponentials) for exponential in exponentials]
        falls = [
            math.log(before + 1e-8) - math.log(after + 1e-8)
            for before, after in zip(before_T.tolist(), after_T.tolist(), strict=True)
        ]
        mean_fall = sum(share * fall for share, fall in zip(shares, falls, strict=True))
        logits_T.grad = tensor([share * (fall - mean_fall) for share, fall in zip(shares, falls, strict=True)])
        adam.step()

        state = famo_update(state, before_T, after_T, is_active_T)
        torch.testing.assert_close(state.logits_T, logits_T.detach(), rtol=1e-9, atol=1e-12)
    assert state.steps_T.tolist() == [29] * 4


losses = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6)


@given(losses)
def test_weighted_losses_have_the_shares_of_the_softmax(values: list[float]) -> None:
    """At the start w L is the same for all tasks, and the weights sum to 1."""
    losses_T = tensor(values)
    weights_T = famo_weights(famo_start(len(values)), losses_T, torch.ones(len(values), dtype=torch.bool))
    assert weights_T.sum().item() == pytest.approx(1)
    weighted = (weights_T * (losses_T + 1e-8)).tolist()
    assert weighted == pytest.approx([weighted[0]] * len(values))


def test_the_task_that_falls_slower_gains() -> None:
    state = famo_update(famo_start(2), tensor([1.0, 1.0]), tensor([0.9, 0.5]), torch.tensor([True, True]))
    # Adam's first step has the length of the learning rate.
    assert state.logits_T.tolist() == pytest.approx([0.025, -0.025], rel=1e-5)


def test_equal_falls_move_nothing() -> None:
    state = famo_update(famo_start(3), tensor([1e-6, 1.0, 1e6]), tensor([5e-7, 0.5, 5e5]), torch.ones(3).bool())
    assert state.logits_T.tolist() == pytest.approx([0, 0, 0], abs=0.026)
    only = famo_update(famo_start(1), tensor([2.0]), tensor([1.0]), torch.tensor([True]))
    assert only.logits_T.tolist() == [0]


def states_equal(first: FamoState, second: FamoState) -> bool:
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_task_that_is_not_active_stays_and_the_others_go_on_without_it() -> None:
    start = famo_update(famo_start(3), tensor([1.0, 2.0, 3.0]), tensor([0.5, 1.9, 2.0]), torch.ones(3).bool())
    is_active_T = torch.tensor([True, False, True])
    two = FamoState(*(values_T[is_active_T] for values_T in vars(start).values()))
    before_T, after_T = tensor([0.5, math.nan, 2.0]), tensor([0.4, math.nan, 1.0])

    weights_T = famo_weights(start, before_T, is_active_T)
    assert weights_T[1] == 0
    both = torch.tensor([True, True])
    torch.testing.assert_close(weights_T[is_active_T], famo_weights(two, before_T[is_active_T], both))

    found = famo_update(start, before_T, after_T, is_active_T)
    expected = famo_update(two, before_T[is_active_T], after_T[is_active_T], both)
    torch.testing.assert_close(found.logits_T[is_active_T], expected.logits_T)
    for found_T, start_T in zip(vars(found).values(), vars(start).values(), strict=True):
        assert found_T[1] == start_T[1]


def test_without_active_tasks_nothing_changes() -> None:
    start = famo_update(famo_start(2), tensor([1.0, 2.0]), tensor([0.5, 1.9]), torch.ones(2).bool())
    none_T, nan_T = torch.zeros(2, dtype=torch.bool), tensor([math.nan, math.nan])
    assert famo_weights(start, nan_T, none_T).tolist() == [0, 0]
    assert states_equal(famo_update(start, nan_T, nan_T, none_T), start)


def test_losses_at_their_lowest_are_finite() -> None:
    state, is_active_T = famo_start(2), torch.ones(2).bool()
    assert famo_weights(state, tensor([0.0, 1.0]), is_active_T).tolist() == pytest.approx([1, 1e-8], abs=1e-7)
    # Below the lowest counts as the lowest.
    state = famo_update(state, tensor([0.1, 1.0]), tensor([0.0, 1.0]), is_active_T, lowest_T=0.05)
    assert state.logits_T.isfinite().all()
