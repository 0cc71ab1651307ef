"""What a method of balancing is: weights of a batch from what all ranks know of it, and a state.

Shapes: B rows of this rank, F width of the shared representation, T tasks.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import nn


class Seen(NamedTuple):
    """What all ranks know of a batch, alike; float64."""

    losses_T: torch.Tensor
    """Of the whole batch, weighted by `tasks.weight`."""
    is_active_T: torch.Tensor
    """Whether the task has a label in the batch and a `tasks.weight` above 0."""
    gram_TT: torch.Tensor | None
    """⟨g_s, g_t⟩ over the whole batch; None where no gradients were taken."""
    samples: int
    """At which the batch begins."""
    seed: int
    """For random choices: of the run and the samples."""

    @property
    def gram(self) -> torch.Tensor:
        """gram_TT, where gradients were taken."""
        assert self.gram_TT is not None
        return self.gram_TT

    @property
    def is_finite(self) -> bool:
        """Whether losses and gradients are."""
        parts = [self.losses_T] if self.gram_TT is None else [self.losses_T, self.gram_TT.flatten()]
        return bool(torch.cat(parts).isfinite().all())

    @property
    def generator(self) -> torch.Generator:
        """The same on every rank, and after a resume."""
        return torch.Generator().manual_seed(self.seed)


class Group(NamedTuple):
    """Of whom the trained loss is the mean."""

    rank: int = 0
    size: int = 1
    sum: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor
    """The sum over all of them."""


class Rows(NamedTuple):
    """Which rows of the global batch this rank has."""

    begin: int
    of: int


class Method(nn.Module):
    """How tasks are weighed. Buffers are its state; new values go through `propose`."""

    gradients: Literal["none", "observed", "weighed", "combined"] = "none"
    """What is done with the tasks' gradients: nothing; their Gram matrix is looked at; they are added up by weights of
    their own; the method itself combines them, element by element."""

    def __init__(self) -> None:
        super().__init__()
        self.proposed: dict[str, torch.Tensor] = {}

    def weigh(self, seen: Seen) -> torch.Tensor:
        """weights_T of this batch: of the gradients where they are "weighed", else of the losses."""
        return torch.ones_like(seen.losses_T)

    def objective(self, losses_T: torch.Tensor, weights_T: torch.Tensor, is_active_T: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The trained loss of this rank's rows."""
        return (losses_T * weights_T).sum()

    def extra_loss(
        self,
        parts: list[torch.Tensor],  # noqa: ARG002
        labels_BT: torch.Tensor,  # noqa: ARG002
        weights_BT: torch.Tensor,  # noqa: ARG002
    ) -> torch.Tensor | None:
        """What is added to the trained loss of this rank's rows; `parts`: y_BF, as the gate has it. None: nothing."""
        return None

    def learn(self, gradient_TBF: torch.Tensor, seen: Seen, ranks: Group) -> None:
        """Looks at the gradients themselves in a step that renews the weights; on all ranks alike, so it may meet."""

    def read(self, y_BF: torch.Tensor) -> torch.Tensor:
        """What the tasks read of the shared representation, in training and evaluation."""
        return y_BF

    def combine(self, gradient_TBF: torch.Tensor, seen: Seen, rows: Rows) -> torch.Tensor:  # noqa: ARG002
        """gradient_BF for the shared representation, where they are "combined"."""
        return gradient_TBF.sum(dim=0)

    def propose(self, **state: torch.Tensor) -> None:
        """New values of buffers, which are kept if the step turns out to be sound."""
        self.proposed |= state

    @torch.no_grad()
    def commit(self, unsound: torch.Tensor | None = None) -> None:
        """Keeps what was proposed; all stays where `unsound` is not 0."""
        for name, value in self.proposed.items():
            keep(getattr(self, name), value, unsound)
        self.proposed = {}


def keep(buffer: torch.Tensor, value: torch.Tensor, unsound: torch.Tensor | None) -> None:
    """Copies `value` into the buffer, unless `unsound` is a scalar that is not 0. Asynchronous."""
    buffer.copy_(value if unsound is None else torch.where(unsound == 0, value.to(buffer), buffer))
