"""Methods that look at the gradient of each task with regard to the shared representation.

All but GradDrop need their inner products alone. Everything that is not shared gets the gradient of the plain sum of
the losses, but for GradNorm, whose weights are those of the losses.

Shapes: B rows of this rank, F width of the shared representation, T tasks.
"""

from typing import Literal

import torch
from pydantic import Field

from data.settings import Count
from models.balancers.conflicts import graddrop, pcgrad, random_orders
from models.balancers.gram import norms, of_active
from models.balancers.method import Method, Rows, Seen
from models.balancers.norms import gradnorm, imtl_g
from models.balancers.optima import Normalizer, cagrad, mgda, nash_mtl
from models.balancers.settings import BalanceConfig, Tasks


class ConstantConfig(BalanceConfig):
    """The weights of the config (`tasks.weight`)."""

    method: Literal["constant"] = "constant"
    observe: bool = False
    """true: the tasks' gradients are looked at, every `every` steps: how long they are, and whether they conflict."""

    @property
    def looks_at_shared(self) -> bool:
        """If asked."""
        return self.observe

    def build(self, tasks: Tasks) -> Method:  # noqa: ARG002
        """The method."""
        return Observed()


class PCGradConfig(BalanceConfig):
    """Projecting conflicting gradients (Yu et al., NeurIPS 2020)."""

    method: Literal["pcgrad"] = "pcgrad"

    def build(self, tasks: Tasks) -> Method:  # noqa: ARG002
        """The method."""
        return PCGrad()


class MgdaConfig(BalanceConfig):
    """The shortest convex combination of the gradients (Sener and Koltun, NeurIPS 2018)."""

    method: Literal["mgda"] = "mgda"
    normalizer: Normalizer = "none"
    """What gradients are divided by before: their length (l2), the loss, or both (loss+)."""

    def build(self, tasks: Tasks) -> Method:  # noqa: ARG002
        """The method."""
        return Mgda(self.normalizer)


class CAGradConfig(BalanceConfig):
    """Conflict-averse gradient descent (Liu et al., NeurIPS 2021)."""

    method: Literal["cagrad"] = "cagrad"
    c: float = Field(default=0.4, ge=0, lt=1)
    """How far the direction may be from the mean gradient."""

    def build(self, tasks: Tasks) -> Method:  # noqa: ARG002
        """The method."""
        return CAGrad(self.c)


class ImtlGConfig(BalanceConfig):
    """Equal projections on all gradients (Liu et al., ICLR 2021)."""

    method: Literal["imtl_g"] = "imtl_g"

    def build(self, tasks: Tasks) -> Method:  # noqa: ARG002
        """The method."""
        return ImtlG()


class NashMtlConfig(BalanceConfig):
    """The Nash bargaining solution (Navon et al., ICML 2022)."""

    method: Literal["nash_mtl"] = "nash_mtl"
    max_norm: float = Field(default=1.0, gt=0)
    """Longest shared gradient."""

    def build(self, tasks: Tasks) -> Method:
        """The method."""
        return NashMtl(len(tasks.is_binary), self.max_norm)


class GradNormConfig(BalanceConfig):
    """Weights under which the gradients' lengths follow the losses' relative rates (Chen et al., ICML 2018)."""

    method: Literal["gradnorm"] = "gradnorm"
    alpha: float = Field(default=1.5, ge=0)
    """How much more a task weighs whose loss falls slowly."""
    learning_rate: float = Field(default=0.025, gt=0)
    """Of the weights: a step moves one by this times the length of its gradient over the mean length."""
    first: Count = Field(default=100_000, gt=0)
    """Samples whose mean loss is the one that rates are relative to; weights are 1 until then."""

    def build(self, tasks: Tasks) -> Method:
        """The method."""
        return GradNorm(len(tasks.is_binary), self)


class GradDropConfig(BalanceConfig):
    """One sign of each element's gradients is kept, at random (Chen et al., NeurIPS 2020)."""

    method: Literal["graddrop"] = "graddrop"
    leak: float = Field(default=0.0, ge=0, le=1)
    """Share of every gradient that always passes."""

    def build(self, tasks: Tasks) -> Method:  # noqa: ARG002
        """The method."""
        return GradDrop(self.leak)


class Observed(Method):
    """Constant weights; gradients are looked at alone."""

    gradients = "observed"


class PCGrad(Method):
    """Orders from the seed of the step."""

    gradients = "weighed"

    def weigh(self, seen: Seen) -> torch.Tensor:
        """Of the gradients."""
        order_TT = random_orders(len(seen.losses_T), seen.generator)
        return torch.where(seen.is_active_T, pcgrad(seen.gram, order_TT), 0)


class Mgda(Method):
    """No state."""

    gradients = "weighed"

    def __init__(self, normalizer: Normalizer) -> None:
        super().__init__()
        self._normalizer = normalizer

    def weigh(self, seen: Seen) -> torch.Tensor:
        """Of the gradients."""
        losses_A = seen.losses_T[seen.is_active_T]
        return of_active(seen.is_active_T, seen.gram, lambda gram_AA: mgda(gram_AA, losses_A, self._normalizer))


class CAGrad(Method):
    """No state."""

    gradients = "weighed"

    def __init__(self, c: float) -> None:
        super().__init__()
        self._c = c

    def weigh(self, seen: Seen) -> torch.Tensor:
        """Of the gradients."""
        return of_active(seen.is_active_T, seen.gram, lambda gram_AA: cagrad(gram_AA, self._c))


class ImtlG(Method):
    """No state."""

    gradients = "weighed"

    def weigh(self, seen: Seen) -> torch.Tensor:
        """Of the gradients."""
        return of_active(seen.is_active_T, seen.gram, imtl_g)


class NashMtl(Method):
    """The weights of the step before."""

    gradients = "weighed"
    previous_T: torch.Tensor

    def __init__(self, num_tasks: int, max_norm: float) -> None:
        super().__init__()
        self._max_norm = max_norm
        self.register_buffer("previous_T", torch.ones(num_tasks, dtype=torch.float64))

    def weigh(self, seen: Seen) -> torch.Tensor:
        """Of the gradients."""
        alpha_T, previous_T = nash_mtl(seen.gram, self.previous_T, seen.is_active_T, self._max_norm)
        self.propose(previous_T=previous_T)
        return alpha_T


class GradNorm(Method):
    """Weights of the losses, and the sums of the first losses."""

    gradients = "observed"
    weights_T: torch.Tensor
    first_2T: torch.Tensor
    """Sums of the losses of the first batches, and of how many have the task's label."""

    def __init__(self, num_tasks: int, config: GradNormConfig) -> None:
        super().__init__()
        self._config = config
        self.register_buffer("weights_T", torch.ones(num_tasks, dtype=torch.float64))
        self.register_buffer("first_2T", torch.zeros(2, num_tasks, dtype=torch.float64))

    def weigh(self, seen: Seen) -> torch.Tensor:
        """Of the losses."""
        if seen.samples < self._config.first:
            of_batch_2T = torch.stack([torch.where(seen.is_active_T, seen.losses_T, 0), seen.is_active_T.double()])
            self.propose(first_2T=self.first_2T + of_batch_2T)
            return self.weights_T
        first_T = self.first_2T[0] / self.first_2T[1]
        is_known_T = seen.is_active_T & (first_T > 0)
        ratios_T = torch.where(is_known_T, seen.losses_T / first_T, 1.0)
        rate, alpha = self._config.learning_rate, self._config.alpha
        # In the paper's own unit a step would shrink as 1 / √rows, and with any common factor of the losses.
        lengths_T = norms(seen.gram)
        lengths_T = lengths_T / lengths_T[is_known_T].mean().clamp(min=torch.finfo(torch.float64).tiny)
        weights_T = gradnorm(self.weights_T, lengths_T, ratios_T, is_known_T, rate, alpha)
        self.propose(weights_T=weights_T)
        return self.weights_T


class GradDrop(Method):
    """No state; draws from the seed of the step, for all rows of the batch."""

    gradients = "combined"

    def __init__(self, leak: float) -> None:
        super().__init__()
        self._leak = leak

    def combine(self, gradient_TBF: torch.Tensor, seen: Seen, rows: Rows) -> torch.Tensor:
        """gradient_BF."""
        num_tasks, num_rows, width = gradient_TBF.shape
        uniform_BF = torch.rand(rows.of, width, generator=seen.generator)[rows.begin : rows.begin + num_rows]
        leak_T = torch.full((num_tasks,), self._leak, device=gradient_TBF.device)
        return graddrop(gradient_TBF, uniform_BF.to(gradient_TBF.device), leak_T)
