import math
from collections.abc import Callable

import pytest
import torch

from models.balancers.conflicts import pcgrad, random_orders
from models.balancers.gram import ELEMENTS_IN_CACHE, cosines, inner_products, norms, of_active
from models.balancers.norms import imtl_g
from models.balancers.optima import cagrad, mgda, nash_mtl
from tests.models.balancers.gradients import gram, random_gradients, rows

GRADIENT_TF = random_gradients(4, seed=0)
METHODS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "pcgrad": lambda gram_TT: pcgrad(gram_TT, random_orders(len(gram_TT), torch.Generator().manual_seed(1))),
    "mgda": lambda gram_TT: mgda(gram_TT, gram_TT.diagonal()),
    "cagrad": cagrad,
    "imtl_g": imtl_g,
    "nash_mtl": lambda gram_TT: nash_mtl(gram_TT, torch.ones(len(gram_TT)), torch.ones(len(gram_TT)).bool())[0],
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_task_that_is_not_active_has_weight_0_and_changes_nothing(
    method: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    is_active_T = torch.tensor([True, False, True, True])
    alpha_T = of_active(is_active_T, gram(GRADIENT_TF), method)
    assert alpha_T[1] == 0
    torch.testing.assert_close(alpha_T[is_active_T], method(gram(GRADIENT_TF[is_active_T])))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_without_an_active_task_all_weights_are_0(method: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert of_active(torch.zeros(4, dtype=torch.bool), gram(GRADIENT_TF), method).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("name", "method"), METHODS.items(), ids=METHODS)
def test_one_task_keeps_its_direction(name: str, method: Callable[[torch.Tensor], torch.Tensor]) -> None:
    alpha = method(gram(rows((3.0, 4.0)))).item()
    # CAGrad's step is longer than the mean gradient; Nash-MTL's has length 1.
    assert alpha == pytest.approx({"cagrad": 1.4 / 1.16, "nash_mtl": 1 / 5}.get(name, 1))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_float32_is_solved_in_float64(method: Callable[[torch.Tensor], torch.Tensor]) -> None:
    gram_TT = gram(GRADIENT_TF).float()
    assert torch.equal(method(gram_TT), method(gram_TT.double()))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite_give_nan(method: Callable[[torch.Tensor], torch.Tensor], value: float) -> None:
    gram_TT = gram(GRADIENT_TF)
    gram_TT[2] = gram_TT[:, 2] = value
    alpha_T = of_active(torch.tensor([True, False, True, True]), gram_TT, method)
    assert alpha_T.isnan().tolist() == [True, False, True, True]
    # Of a task that is not active they do no harm.
    assert of_active(torch.tensor([True, True, False, True]), gram_TT, method).isfinite().all()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("seed", range(20))
def test_rounding_that_makes_squares_negative_does_no_harm(
    method: Callable[[torch.Tensor], torch.Tensor], seed: int
) -> None:
    """More tasks than features leave eigenvalues of 0, which noise of float32 moves to both sides of it."""
    gradient_TF = random_gradients(5, seed, num_features=2)
    noise_TT = 1e-7 * random_gradients(5, seed, num_features=5)
    gram_TT = gram(gradient_TF) + noise_TT + noise_TT.T
    assert torch.linalg.eigvalsh(gram_TT)[0] < 0
    assert method(gram_TT).isfinite().all()


def test_norms_and_cosines() -> None:
    gram_TT = gram(rows((3.0, 4.0), (2.0, 0.0)))
    assert norms(gram_TT).tolist() == [5, 2]
    assert cosines(gram_TT).flatten().tolist() == pytest.approx([1, 0.6, 0.6, 1])
    assert norms(torch.tensor([[-1e-30]])).tolist() == [0]


@pytest.mark.parametrize("num_elements", [0, 3, ELEMENTS_IN_CACHE, 3 * ELEMENTS_IN_CACHE + 5])
def test_inner_products_part_by_part_are_those_of_float64(num_elements: int) -> None:
    gradient_TBF = torch.randn(3, num_elements, 1, generator=torch.Generator().manual_seed(5))
    rows_TN = gradient_TBF[:, :, 0].double()
    torch.testing.assert_close(inner_products(gradient_TBF), rows_TN @ rows_TN.T, rtol=1e-12, atol=1e-9)
