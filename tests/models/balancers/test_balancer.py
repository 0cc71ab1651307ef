import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from models.balancers import METHODS
from models.balancers.balancer import Balancer
from models.balancers.settings import Tasks
from models.tasks import TaskConfig
from tests.models.balancers.tasks import binary_tasks

TASKS = binary_tasks("abc", width=4)


def step(
    balancer: Balancer, samples: int, factors: Sequence[float] = (1, 1, 1), without: int | None = None
) -> torch.Tensor:
    """The gradient_BF of what is shared in a step on two rows. Each task's loss is multiplied by its factor.

    `without`: a task that has no label. The step is judged as on a GPU: by a flag, with its commit.
    """
    x_BF = torch.arange(8.0).view(2, 4).requires_grad_()
    balancer.begin(samples)
    read = balancer.gate(x_BF)
    num_tasks = len(factors)
    read_BTF = read if read.dim() == 3 else read[:, None].expand(-1, num_tasks, -1)
    sums = [read_BTF[:, task].sigmoid()[:, task:].sum() for task in range(num_tasks)]
    labels_BT = torch.ones(2, num_tasks)
    if without is not None:
        labels_BT[:, without] = 0
    losses_T = torch.stack(sums) * labels_BT[0] * torch.tensor(factors)
    loss = balancer(losses_T, labels_BT, labels_BT)
    loss.backward()
    assert x_BF.grad is not None
    balancer.commit(1 - (loss.isfinite() & x_BF.grad.isfinite().all()).float())
    return x_BF.grad


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_does_not_enter_the_state(method: str) -> None:
    balancer = Balancer(METHODS[method](), TASKS, global_batch_size=2, seed=0)
    step(balancer, 0)
    before = {name: value.clone() for name, value in balancer.named_buffers()}
    step(balancer, 2, factors=[math.nan] * 3)
    after = dict(balancer.named_buffers())
    assert all(torch.equal(value.nan_to_num(), after[name].nan_to_num()) for name, value in before.items())
    assert balancer.kept_T.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_task_whose_weight_is_0_is_as_if_it_were_not_there(method: str) -> None:
    """As the second factor of a product: its loss is 0, which must not take the others' weight."""
    without = binary_tasks("ab", width=4)
    idle = TaskConfig(name="c", kind="binary", label="c", weight=0)
    gradients = []
    for tasks, factors in ((without, (1.0, 2.0)), (Tasks((*without.configs, idle), 4), (1.0, 2.0, 0.0))):
        balancer = Balancer(METHODS[method](), tasks, global_batch_size=2, seed=0)
        for parameter in balancer.parameters():
            nn.init.constant_(parameter, 0.5)
        gradients.append(torch.stack([step(balancer, samples, factors) for samples in (0, 2, 4)]))

    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_a_label_leaves_the_weight_of_its_task(method: str) -> None:
    """The weights are kept for `every` steps, in which there may be labels."""
    balancer = Balancer(METHODS[method](every=2), TASKS, global_batch_size=2, seed=0)
    step(balancer, 0)
    before_T = balancer.kept_T.clone()
    step(balancer, 4, without=2)  # its gradient is the shortest: MGDA gives weight to no other
    assert balancer.kept_T[2] == before_T[2] > 0


def test_gradnorm_moves_weights_alike_whatever_the_scale_of_the_losses() -> None:
    weights = []
    for scale in (1.0, 1e-6):
        balancer = Balancer(METHODS["gradnorm"](first=4), TASKS, global_batch_size=2, seed=0)
        for samples in range(0, 20, 2):
            step(balancer, samples, factors=[scale, 2 * scale, 50 * scale])
        weights.append(balancer.kept_T)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=0)
    assert weights[0][2] < 0.9  # by 0.025 times about 3 a step


@pytest.mark.parametrize("method", METHODS)
def test_a_gate_stands_where_gradients_are_taken_or_features_read(method: str) -> None:
    config = METHODS[method]()
    by_losses = {"constant", "uncertainty", "dwa", "imtl_l", "famo"}
    assert Balancer(config, TASKS, global_batch_size=2, seed=0).at == (None if method in by_losses else config.at)
