"""Whether tasks conflict, over many steps: the cosine between their gradients in one batch is mostly noise.

Shapes: T tasks. The leading 3 are the sum of the cosines, in how many steps it was below 0, and in how many it was
defined.
"""

from typing import NamedTuple

import torch
from torch import nn

from models.balancers.gram import pair_cosines


class CosineMeans(NamedTuple):
    """Over the steps since `since`; NaN for a pair of which a gradient was always 0."""

    since: int
    """Samples."""
    steps: int
    """In which gradients were looked at."""
    cosine_TT: torch.Tensor
    below_zero_TT: torch.Tensor
    """Share of the steps in which the two pulled against each other."""


class CosineSums(nn.Module):
    """Sums over the steps since some samples, on the device. They are in checkpoints: a resumed run goes on."""

    sums_3TT: torch.Tensor
    since: torch.Tensor
    """Samples."""
    steps: torch.Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.register_buffer("sums_3TT", torch.zeros(3, num_tasks, num_tasks, dtype=torch.float64))
        self.register_buffer("since", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, gram_TT: torch.Tensor, unsound: torch.Tensor | None = None) -> None:
        """Adds a step, unless it is `unsound` (a scalar, on a device that knows more than the host). Asynchronous."""
        cosine_TT, is_known_TT = pair_cosines(gram_TT)
        of_step_3TT = torch.stack([cosine_TT, (cosine_TT < 0).double(), is_known_TT.double()])
        if unsound is None:
            self.sums_3TT += of_step_3TT
            self.steps += 1
        else:
            is_sound = unsound == 0
            self.sums_3TT += of_step_3TT * is_sound
            self.steps += is_sound

    @torch.no_grad()
    def begin(self, samples: int) -> None:
        """Only what comes after `samples` counts."""
        self.sums_3TT.zero_()
        self.steps.zero_()
        self.since.fill_(samples)

    def means(self) -> CosineMeans:
        """On the host; waits for the device."""
        sum_TT, below_TT, known_TT = self.sums_3TT.cpu().unbind()
        return CosineMeans(int(self.since), int(self.steps), sum_TT / known_TT, below_TT / known_TT)
