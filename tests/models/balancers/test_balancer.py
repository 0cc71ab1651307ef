import math

import pytest
import torch

from models.balancers import METHODS
from models.balancers.balancer import Balancer
from tests.models.balancers.tasks import binary_tasks

TASKS = binary_tasks("abc", width=4)
ONES_BT = torch.ones(2, 3)


def step(balancer: Balancer, samples: int, factor: float = 1.0) -> None:
    """A step on two rows; the losses are `factor` times what they should be."""
    x_BF = torch.arange(8.0).view(2, 4).requires_grad_()
    balancer.begin(samples)
    read = balancer.gate(x_BF)
    read_BTF = read if read.dim() == 3 else read[:, None].expand(-1, 3, -1)
    losses_T = factor * torch.stack([read_BTF[:, task].sigmoid()[:, task:].sum() for task in range(3)])
    balancer(losses_T, ONES_BT, ONES_BT).backward()
    balancer.commit()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_does_not_enter_the_state(method: str) -> None:
    """As with a GPU, where a step is committed before its verdict is known."""
    balancer = Balancer(METHODS[method](), TASKS, global_batch_size=2, seed=0)
    step(balancer, 0)
    before = {name: value.clone() for name, value in balancer.named_buffers()}
    step(balancer, 2, factor=math.nan)
    after = dict(balancer.named_buffers())
    assert all(torch.equal(value.nan_to_num(), after[name].nan_to_num()) for name, value in before.items())
    assert balancer.kept_T.isfinite().all()
