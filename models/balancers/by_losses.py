"""Methods that weigh the losses: no gradient is looked at, and a step is one backward pass as without them.

Shapes: T tasks.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from data.settings import Count
from models.balancers.famo import FamoState, famo_start, famo_update, famo_weights
from models.balancers.losses import dwa, imtl_l, uncertainty
from models.balancers.method import Method, Seen
from models.balancers.settings import BalanceConfig, Tasks


class _LossesConfig(BalanceConfig):
    unused: ClassVar[tuple[str, ...]] = ("at",)

    @property
    def looks_at_shared(self) -> bool:
        """No."""
        return False


class UncertaintyConfig(_LossesConfig):
    """A learned variance for each task (Kendall, Gal and Cipolla, CVPR 2018)."""

    method: Literal["uncertainty"] = "uncertainty"
    unused: ClassVar[tuple[str, ...]] = ("at", "every")

    def build(self, tasks: Tasks) -> Method:
        """The method."""
        return Uncertainty(torch.tensor(tasks.is_binary))


class ImtlLConfig(_LossesConfig):
    """A learned scale for each loss (Liu et al., ICLR 2021)."""

    method: Literal["imtl_l"] = "imtl_l"
    unused: ClassVar[tuple[str, ...]] = ("at", "every")

    def build(self, tasks: Tasks) -> Method:
        """The method."""
        return ImtlL(len(tasks.is_binary))


class DwaConfig(_LossesConfig):
    """Dynamic weight average: losses that fall more slowly weigh more (Liu, Johns and Davison, CVPR 2019)."""

    method: Literal["dwa"] = "dwa"
    window: Count = Field(default=100_000, gt=0)
    """Samples over which losses are averaged; weights are 1 in the first two windows."""
    temperature: float = Field(default=2.0, gt=0)
    """The higher, the more alike the weights."""

    def build(self, tasks: Tasks) -> Method:
        """The method."""
        return Dwa(len(tasks.is_binary), self.window, self.temperature)


class FamoConfig(_LossesConfig):
    """Losses that fall at the same relative rate (Liu, Feng, Stone and Liu, NeurIPS 2023)."""

    method: Literal["famo"] = "famo"

    def build(self, tasks: Tasks) -> Method:
        """The method."""
        return Famo(len(tasks.is_binary))


class Uncertainty(Method):
    """s = ln σ² of each task, trained by the dense optimizer."""

    is_binary_T: torch.Tensor

    def __init__(self, is_binary_T: torch.Tensor) -> None:
        super().__init__()
        self.log_variance_T = nn.Parameter(torch.zeros(len(is_binary_T)))
        self.register_buffer("is_binary_T", is_binary_T, persistent=False)

    def weigh(self, seen: Seen) -> torch.Tensor:
        """As the objective has them."""
        weights_T: torch.Tensor = (-self.log_variance_T.detach()).exp().to(seen.losses_T)
        return torch.where(self.is_binary_T, weights_T, weights_T / 2)

    def objective(self, losses_T: torch.Tensor, weights_T: torch.Tensor, is_active_T: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The trained loss; may be negative."""
        return uncertainty(losses_T, self.log_variance_T, self.is_binary_T, is_active_T)


class ImtlL(Method):
    """s of each task, trained by the dense optimizer."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.log_scale_T = nn.Parameter(torch.zeros(num_tasks))

    def weigh(self, seen: Seen) -> torch.Tensor:
        """As the objective has them."""
        weights_T: torch.Tensor = self.log_scale_T.detach().exp().to(seen.losses_T)
        return weights_T

    def objective(self, losses_T: torch.Tensor, weights_T: torch.Tensor, is_active_T: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The trained loss; may be negative."""
        return imtl_l(losses_T, self.log_scale_T, is_active_T)


class Dwa(Method):
    """Sums of losses in the window under way, and the means of the two before."""

    window_number: torch.Tensor
    sums_2T: torch.Tensor
    """Of losses, and of batches that have the task's label."""
    means_2T: torch.Tensor
    """Of the last window but one, and the last; NaN where there is none."""

    def __init__(self, num_tasks: int, window: int, temperature: float) -> None:
        super().__init__()
        self._window = window
        self._temperature = temperature
        self.register_buffer("window_number", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sums_2T", torch.zeros(2, num_tasks, dtype=torch.float64))
        self.register_buffer("means_2T", torch.full((2, num_tasks), torch.nan, dtype=torch.float64))

    def weigh(self, seen: Seen) -> torch.Tensor:
        """By the windows before; the losses of this batch count in the next."""
        number = torch.full_like(self.window_number, seen.samples // self._window)
        is_new = number > self.window_number
        before_2T = torch.stack([self.means_2T[1], self.sums_2T[0] / self.sums_2T[1]])
        means_2T = torch.where(is_new, before_2T, self.means_2T)
        of_batch_2T = torch.stack([torch.where(seen.is_active_T, seen.losses_T, 0), seen.is_active_T.double()])
        sums_2T = torch.where(is_new, 0, self.sums_2T) + of_batch_2T
        self.propose(window_number=number, sums_2T=sums_2T, means_2T=means_2T)
        return dwa(list(means_2T), self._temperature)


class Famo(Method):
    """Logits of the weights with Adam's state, and the losses of the batch before.

    The paper looks at the losses of one batch before and after a step. Here the next batch's losses stand for the
    latter, so that a step stays one forward pass: the difference holds the noise of two batches.
    """

    logits_T: torch.Tensor
    mean_T: torch.Tensor
    square_T: torch.Tensor
    steps_T: torch.Tensor
    before_T: torch.Tensor
    """NaN where the task had no label in the batch before."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        for name, value in vars(famo_start(num_tasks)).items():
            self.register_buffer(name, value)
        self.register_buffer("before_T", torch.full((num_tasks,), torch.nan, dtype=torch.float64))

    def weigh(self, seen: Seen) -> torch.Tensor:
        """After the step of the logits that this batch's losses tell of the one before."""
        state = FamoState(self.logits_T, self.mean_T, self.square_T, self.steps_T)
        is_known_T = seen.is_active_T & self.before_T.isfinite()
        before_T = torch.where(is_known_T, self.before_T, 1.0)
        state = famo_update(state, before_T, torch.where(is_known_T, seen.losses_T, 1.0), is_known_T)
        before_T = torch.where(seen.is_active_T, seen.losses_T, torch.nan)
        self.propose(**vars(state), before_T=before_T)
        return famo_weights(state, seen.losses_T, seen.is_active_T)
