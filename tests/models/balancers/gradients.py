"""Gradients of some tasks on which the balancers are compared with other implementations and with plain loops."""

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn


def random_gradients(num_tasks: int, seed: int, num_features: int = 10) -> torch.Tensor:
    """Rows of normal numbers, of lengths that differ by up to e⁴."""
    generator = torch.Generator().manual_seed(seed)
    gradient_TF = torch.randn(num_tasks, num_features, generator=generator, dtype=torch.float64)
    exponent_T = 4 * torch.rand(num_tasks, generator=generator, dtype=torch.float64) - 2
    return gradient_TF * exponent_T.exp()[:, None]


def rows(*gradients: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(gradients, dtype=torch.float64)


def gram(gradient_TF: torch.Tensor) -> torch.Tensor:
    return gradient_TF @ gradient_TF.T


RANDOM = {f"{num_tasks} tasks": random_gradients(num_tasks, seed=num_tasks) for num_tasks in (2, 3, 5, 8)}
"""No gradient is 0, no two are parallel."""

REGULAR = RANDOM | {
    "one task": rows((3.0, 4.0)),
    "wide scales": torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)[:, None] * random_gradients(3, seed=1),
    "small": 1e-6 * random_gradients(4, seed=2),
    "large": 1e6 * random_gradients(4, seed=3),
}

SPECIAL = {
    "equal": rows((1.0, 2.0), (1.0, 2.0), (1.0, 2.0)),
    "opposed": rows((1.0, 2.0), (-1.0, -2.0)),
    "opposed, of other lengths": rows((1.0, 2.0), (-2.0, -4.0)),
    "one is 0": rows((1.0, 2.0), (0.0, 0.0), (-3.0, 1.0)),
    "all are 0": rows((0.0, 0.0), (0.0, 0.0)),
    "nearly equal": rows((1.0, 0.0, 0.0), (1.0, 1e-7, 0.0), (0.0, 1.0, 1.0)),
    "nearly opposed": rows((1.0, 0.0), (-1.0, 1e-4)),
    "more tasks than features": random_gradients(5, seed=4, num_features=3),
}

ALL = REGULAR | SPECIAL


@st.composite
def gradients(draw: DrawFn, min_tasks: int = 1) -> torch.Tensor:
    """Random gradients of up to 6 tasks."""
    return random_gradients(draw(st.integers(min_tasks, 6)), seed=draw(st.integers(0, 2**32 - 1)))
