"""Choices learned by sampling: Gumbel-softmax (Jang, Gu and Poole, ICLR 2017), whose temperature falls over samples.

    g ~ Gumbel(0, 1)                              drawn anew in each training step, the same for all of its rows
    d = softmax((s + g) / τ)                      in training: s are learned, 0 at the start
    d = 1 for the greatest s, 0 for the others    in evaluation; of equal scores the first
    τ = max(lowest, start · 2^(-n / halving))     n: samples trained since the warm-up

With `sampling = "hard"` training has 1 for the greatest s + g and 0 for the others, and the gradient of the softmax.

Parameters are s / 10: under Adam, which moves all parameters alike, choices so learn 10 times as fast as weights, as
they do in AdaShare's code (rates of 0.01 and 0.001).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from data.settings import Count
from models.heads.base import HeadConfig

SPEED = 10
"""s of a parameter of 1."""
SMALLEST = 1e-12
"""Of what Gumbel noise is made of: it stays finite."""
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SamplingConfig(HeadConfig):
    """A head that samples what its tasks share."""

    sampling: Literal["soft", "hard"] = "soft"
    """What a training step takes: a mixture of the choices, or one of them with the gradient of the mixture."""
    warmup_samples: Count = Field(default=200_000, ge=0)
    """Samples trained before choices are learned."""
    temperature: Temperature = 5.0
    """Of the softmax at first: high, so that choices are mixed, and gradients are smooth."""
    halving_samples: Count = Field(default=200_000, gt=0)
    """Samples, after the warm-up, in which the temperature halves; 5 to 10 % of the training in AdaShare's code."""
    lowest_temperature: Temperature = 0.1
    """Where it stops falling."""

    def temperature_at(self, samples: int) -> float:
        """Of the step that begins at `samples`."""
        halvings = max(samples - self.warmup_samples, 0) / self.halving_samples
        return max(self.temperature * 0.5**halvings, self.lowest_temperature)


class Choices(nn.Module):
    """Several choices between the entries of the last dimension."""

    noise: torch.Tensor
    """g."""
    temperature: torch.Tensor
    """τ."""

    def __init__(self, config: SamplingConfig, *shape: int) -> None:
        super().__init__()
        self.is_hard = config.sampling == "hard"
        self.slow_scores = nn.Parameter(torch.empty(shape))
        """s / 10."""
        self.register_buffer("noise", torch.zeros(shape), persistent=False)
        self.register_buffer("temperature", torch.tensor(config.temperature), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All entries alike."""
        nn.init.zeros_(self.slow_scores)

    def begin(self, seed: int, temperature: float) -> None:
        """Draws the noise of a training step."""
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(self.noise.shape, generator=generator, dtype=torch.float64)
        gumbel = -(-uniform.clamp(min=SMALLEST).log()).log()
        self.noise.copy_(gumbel, non_blocking=True)
        self.temperature.fill_(temperature)

    @property
    def scores(self) -> torch.Tensor:
        """s."""
        return SPEED * self.slow_scores

    def forward(self) -> torch.Tensor:
        """How much of each entry is taken; 1 in all."""
        if not self.training:
            return _greatest(self.scores)
        noisy = self.scores + self.noise
        soft = (noisy / self.temperature).softmax(dim=-1)
        return soft + (_greatest(noisy) - soft).detach() if self.is_hard else soft


def _greatest(scores: torch.Tensor) -> torch.Tensor:
    """1 for the greatest of the last dimension, 0 for the others."""
    first = scores.argmax(dim=-1, keepdim=True)
    return torch.zeros_like(scores).scatter(-1, first, 1.0)
