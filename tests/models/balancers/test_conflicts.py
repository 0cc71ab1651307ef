from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchjd.aggregation import GradDrop, PCGrad

from models.balancers.conflicts import graddrop, pcgrad, random_orders
from tests.models.balancers.gradients import ALL, RANDOM, gradients, gram, rows


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def projected_sum(gradient_TF: torch.Tensor, order_TT: torch.Tensor) -> torch.Tensor:
    """PCGrad on the gradients themselves."""
    total_F = torch.zeros_like(gradient_TF[0])
    for task, order in enumerate(order_TT.tolist()):
        projected_F = gradient_TF[task].clone()
        for other in order:
            inner = projected_F @ gradient_TF[other]
            if other != task and inner < 0:
                projected_F -= inner / gradient_TF[other].square().sum() * gradient_TF[other]
        total_F += projected_F
    return total_F


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_pcgrad_equals_a_loop_over_the_gradients(name: str, seed: int) -> None:
    gradient_TF = ALL[name]
    order_TT = random_orders(len(gradient_TF), generator(seed))
    shared_F = pcgrad(gram(gradient_TF), order_TT) @ gradient_TF
    expected_F = projected_sum(gradient_TF, order_TT)
    torch.testing.assert_close(shared_F, expected_F, rtol=1e-9, atol=1e-9 * gradient_TF.abs().max().item())


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("seed", range(3))
def test_pcgrad_equals_torchjd_in_the_same_orders(name: str, seed: int) -> None:
    gradient_TF = RANDOM[name]
    torch.manual_seed(seed)
    expected_F = PCGrad()(gradient_TF)
    order_TT = random_orders(len(gradient_TF), generator(seed))
    torch.testing.assert_close(pcgrad(gram(gradient_TF), order_TT) @ gradient_TF, expected_F, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("gradient_TF", "alpha"),
    [
        (rows((1.0, 0.0), (-1.0, 0.0)), [2, 2]),
        (rows((1.0, 2.0), (1.0, 2.0)), [1, 1]),
        (rows((1.0, 0.0), (0.0, 1.0)), [1, 1]),
        (rows((1.0, 0.0), (0.0, 0.0)), [1, 1]),
        # ⟨g₁, g₂⟩ = -1; ‖g₁‖² = 1, ‖g₂‖² = 2
        (rows((1.0, 0.0), (-1.0, 1.0)), [2, 1.5]),
    ],
    ids=["opposed", "equal", "orthogonal", "one is 0", "at 135°"],
)
def test_pcgrad_of_two(gradient_TF: torch.Tensor, alpha: list[float]) -> None:
    assert pcgrad(gram(gradient_TF), torch.tensor([[0, 1], [1, 0]])).tolist() == pytest.approx(alpha)


def test_the_order_matters() -> None:
    gradient_TF = rows((1.0, 0.0), (-1.0, 1.0), (-1.0, -2.0))
    forth = pcgrad(gram(gradient_TF), torch.tensor([[0, 1, 2]] * 3))
    back = pcgrad(gram(gradient_TF), torch.tensor([[2, 1, 0]] * 3))
    assert not torch.allclose(forth, back)


@given(gradients(), st.randoms(use_true_random=False))
def test_other_names_for_the_tasks_change_nothing(gradient_TF: torch.Tensor, random: Random) -> None:
    names = list(range(len(gradient_TF)))
    random.shuffle(names)
    renamed = torch.tensor(names)
    order_TT = random_orders(len(names), generator(0))
    # Task i of the renamed ones is `names[i]`, and meets the same tasks in the same order.
    renamed_order_TT = renamed.argsort()[order_TT[renamed]]
    alpha_T = pcgrad(gram(gradient_TF), order_TT)
    torch.testing.assert_close(pcgrad(gram(gradient_TF[renamed]), renamed_order_TT), alpha_T[renamed])


def test_random_orders() -> None:
    order_TT = random_orders(5, generator(3))
    assert torch.equal(order_TT.sort(dim=1).values, torch.arange(5).expand(5, 5))
    assert torch.equal(order_TT, random_orders(5, generator(3)))
    assert not torch.equal(order_TT, random_orders(5, generator(4)))


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
def test_graddrop_equals_torchjd_with_the_same_draws(name: str, leak: float) -> None:
    gradient_TF = RANDOM[name]
    leak_T = leak * torch.linspace(0.5, 1, len(gradient_TF), dtype=torch.float64)
    torch.manual_seed(5)
    expected_F = GradDrop(leak=leak_T)(gradient_TF)
    uniform_BF = torch.rand(1, gradient_TF.shape[1], generator=generator(5), dtype=torch.float64)
    shared_BF = graddrop(gradient_TF[:, None], uniform_BF, leak_T)
    torch.testing.assert_close(shared_BF[0], expected_F, rtol=1e-9, atol=1e-9)


def kept(gradients_of_tasks: list[float], uniform: float, leaks: list[float]) -> float:
    """GradDrop for one element."""
    size = sum(abs(gradient) for gradient in gradients_of_tasks)
    positive_share = 0.5 * (1 + sum(gradients_of_tasks) / size) if size else 0.5
    total = 0.0
    for gradient, leak in zip(gradients_of_tasks, leaks, strict=True):
        is_kept = gradient > 0 if positive_share > uniform else gradient < 0
        total += gradient if is_kept else leak * gradient
    return total


values = st.sampled_from([0.0, 1.0, -1.0, 2.5, -3.0, 1e-6, -1e6])


@given(st.lists(values, min_size=2, max_size=5), st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.999]), st.floats(0, 1))
def test_graddrop_equals_a_loop(gradients_of_tasks: list[float], uniform: float, leak: float) -> None:
    leaks = [leak / (task + 1) for task in range(len(gradients_of_tasks))]
    gradient_TBF = torch.tensor(gradients_of_tasks, dtype=torch.float64)[:, None, None]
    shared_BF = graddrop(gradient_TBF, torch.tensor([[uniform]]), torch.tensor(leaks, dtype=torch.float64))
    expected = kept(gradients_of_tasks, uniform, leaks)
    assert shared_BF.item() == pytest.approx(expected, rel=1e-12, abs=1e-12 * max(map(abs, gradients_of_tasks)))


def test_graddrop_keeps_a_gradient_that_has_no_opponent_however_small() -> None:
    gradient_TBF = torch.tensor([[[1e-12, -1e-12, 0.0]], [[0.0, -1e-12, 0.0]]])
    for uniform in (0.0, 0.5, 1 - 2**-24):
        shared_BF = graddrop(gradient_TBF, torch.full((1, 3), uniform), torch.zeros(2))
        assert torch.equal(shared_BF, gradient_TBF.sum(dim=0))


def test_graddrop_keeps_the_sign_as_often_as_its_share() -> None:
    gradient_TBF = torch.tensor([3.0, -1.0])[:, None, None].expand(2, 1, 100_000)
    shared_BF = graddrop(gradient_TBF, torch.rand(1, 100_000, generator=generator(0)), torch.zeros(2))
    assert set(shared_BF.flatten().tolist()) == {3.0, -1.0}
    # 5 standard errors
    assert (shared_BF > 0).double().mean().item() == pytest.approx(0.75, abs=0.007)
