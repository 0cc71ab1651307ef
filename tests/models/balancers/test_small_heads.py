import math

import pytest
import torch

from models.balancers.balancer import Balancer
from models.balancers.settings import Tasks
from models.balancers.small_heads import SmallHeads, SmallHeadsConfig
from models.tasks import TaskConfig

TASKS = (
    TaskConfig(name="watch", kind="regression", label="watch", label_mean=3.0, label_scale=2.0, weight=5.0),
    TaskConfig(name="click", kind="binary", label="click", label_mean=0.2, weight=0.5),
    TaskConfig(name="buy", kind="binary", label="buy", weight=0),
    TaskConfig(name="both", kind="product", of=("click", "buy"), label="both", label_mean=0.1, weight=2.0),
)
ROWS, WIDTH = 6, 3


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """labels_BT and weights_BT; the last row is padding, a label is missing here and there."""
    labels_BT = values(ROWS, len(TASKS), seed=seed)
    labels_BT[:, 1:] = (labels_BT[:, 1:] > 0).double()
    weights_BT = values(ROWS, len(TASKS), seed=seed + 1).abs()
    weights_BT[-1] = 0
    weights_BT[2, 1] = 0
    return labels_BT, weights_BT


def small_heads(hidden: int, weight: float = 0.3) -> SmallHeads:
    method = SmallHeads(Tasks(TASKS, WIDTH), weight, hidden).double()
    with torch.no_grad():
        for seed, parameter in enumerate(method.parameters()):
            parameter.copy_(values(*parameter.shape, seed=10 + seed))
    return method


def output_of(method: SmallHeads, task: int, row: list[float]) -> float:
    """By plain sums over units."""
    for index, layer in enumerate([*method.heads.hidden.layers, method.heads.logit]):
        weight, bias = layer.weight[task].tolist(), layer.bias[task].tolist()
        row = [sum(w * x for w, x in zip(line, row, strict=True)) + b for line, b in zip(weight, bias, strict=True)]
        if index < len(method.heads.hidden.layers):
            row = [max(x, 0.0) for x in row]
    return row[0]


def loss_of(method: SmallHeads, y_BF: torch.Tensor, labels_BT: torch.Tensor, weights_BT: torch.Tensor) -> float:
    total = 0.0
    for index, task in enumerate(TASKS):
        for row in range(ROWS):
            output = output_of(method, index, y_BF[row].tolist())
            label, weight = float(labels_BT[row, index]), float(weights_BT[row, index])
            if task.kind == "regression":
                loss = ((3.0 + 2.0 * output - label) / 2.0) ** 2
            else:
                mean = task.label_mean or 0.5
                chance = 1 / (1 + math.exp(-(math.log(mean / (1 - mean)) + output)))
                loss = -math.log(chance if label else 1 - chance)
            total += weight * loss * (task.weight or 0)
    return total / ROWS


@pytest.mark.parametrize("hidden", [0, 2])
def test_the_extra_loss_is_that_of_plain_loops(hidden: int) -> None:
    method, y_BF = small_heads(hidden), values(ROWS, WIDTH)
    labels_BT, weights_BT = labels()
    found = method.extra_loss([y_BF[:4], y_BF[4:]], labels_BT, weights_BT)
    assert found.item() == pytest.approx(0.3 * loss_of(method, y_BF, labels_BT, weights_BT), rel=1e-6)


def test_a_task_without_labels_trains_nothing() -> None:
    method, y_BF = small_heads(hidden=2), values(ROWS, WIDTH).requires_grad_()
    labels_BT, weights_BT = labels()
    weights_BT[:, 1] = 0
    method.extra_loss([y_BF], labels_BT, weights_BT).backward()
    for layer in (method.heads.hidden.layers[0], method.heads.logit):
        assert layer.weight.grad is not None
        of_tasks = layer.weight.grad.flatten(1).abs().sum(dim=1)
        # "buy" has weight 0, as the factor of a product that alone trains it has.
        assert (of_tasks > 0).tolist() == [True, False, False, True]
    weights_BT[:] = 0
    assert method.extra_loss([y_BF], labels_BT, weights_BT).item() == 0


def loss_and_gradient(config: SmallHeadsConfig | None, *, training: bool = True) -> tuple[float, torch.Tensor]:
    """What a balancer makes of Σ y, for each task, and the gradient below its gate."""
    x_BF = values(ROWS, WIDTH).requires_grad_()
    labels_BT, weights_BT = labels()
    balancer = Balancer(config or SmallHeadsConfig(weight=0), Tasks(TASKS, WIDTH), ROWS, seed=0).double()
    balancer.method = small_heads(hidden=2, weight=0 if config is None else config.weight)
    balancer.train(training)
    balancer.begin(0)
    y_BF = balancer.gate(x_BF)
    loss = balancer(y_BF.sum() * torch.ones(len(TASKS), dtype=torch.float64), labels_BT, weights_BT)
    loss.backward()
    assert x_BF.grad is not None
    return loss.item(), x_BF.grad


def test_the_gradient_of_small_heads_reaches_what_is_shared() -> None:
    plain, plain_BF = loss_and_gradient(None)
    loss, gradient_BF = loss_and_gradient(SmallHeadsConfig(weight=0.3))
    y_BF = values(ROWS, WIDTH).requires_grad_()
    extra = small_heads(hidden=2).extra_loss([y_BF], *labels())
    extra.backward()
    assert y_BF.grad is not None
    assert loss == pytest.approx(plain + extra.item(), rel=1e-12)
    torch.testing.assert_close(gradient_BF, plain_BF + y_BF.grad)
    assert y_BF.grad[:-1].abs().min() > 0  # all rows but padding


def test_an_evaluation_knows_no_small_heads() -> None:
    plain, plain_BF = loss_and_gradient(None, training=False)
    loss, gradient_BF = loss_and_gradient(SmallHeadsConfig(weight=0.3), training=False)
    assert loss == plain
    assert torch.equal(gradient_BF, plain_BF)
