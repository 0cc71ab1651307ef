"""FAMO: weights under which all losses fall at the same relative rate, from the losses alone.

Liu, Feng, Stone and Liu, NeurIPS 2023, algorithm 1.

    z = softmax(w),   D_t = L_t - lowest L_t + 1e-8,   c = 1 / Σ_t(z_t / D_t)
    the model is trained with Σ_t (c z_t / D_t) L_t, c held constant
    δ_t = ln D_t before the step - ln D_t after it, on the same batch
    w is moved by Adam along z_t (δ_t - Σ_s z_s δ_s) + decay · w_t

Elsewhere: the authors' single file has a decay of 0.01; their reinforcement learning code
multiplies by Σ(z / D) where it should divide.

Shapes: T tasks.
"""

from dataclasses import dataclass

import torch

SMALLEST_LOSS = 1e-8
LEARNING_RATE = 0.025
DECAY = 1e-3
BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class FamoState:
    """What is kept between steps, all float64: the logits w and Adam's moments and number of steps, for each task."""

    logits_T: torch.Tensor
    mean_T: torch.Tensor
    square_T: torch.Tensor
    steps_T: torch.Tensor


def famo_start(num_tasks: int) -> FamoState:
    """Equal weights, no step yet."""
    return FamoState(*torch.zeros(4, num_tasks, dtype=torch.float64).unbind())


def famo_weights(
    state: FamoState,
    losses_T: torch.Tensor,
    is_active_T: torch.Tensor,
    lowest_T: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Weights of the losses, c z / D; 0 for tasks that are not active. weights_T: float64."""
    shares_T = _shares(state, is_active_T)
    distance_T = torch.where(is_active_T, _distance(losses_T, lowest_T), 1)
    ratios_T = shares_T / distance_T
    # Where no task is active all are 0.
    return ratios_T / ratios_T.sum().clamp(min=torch.finfo(torch.float64).tiny)


def famo_update(
    state: FamoState,
    before_T: torch.Tensor,
    after_T: torch.Tensor,
    is_active_T: torch.Tensor,
    lowest_T: torch.Tensor | float = 0.0,
) -> FamoState:
    """The state after the losses of a batch went from before_T to after_T. A task that is not active stays as it is."""
    shares_T = _shares(state, is_active_T)
    falls_T = _distance(before_T, lowest_T).log() - _distance(after_T, lowest_T).log()
    falls_T = torch.where(is_active_T, falls_T, 0)

    slopes_T = shares_T * (falls_T - shares_T @ falls_T)
    moved = _adam(state, slopes_T + DECAY * state.logits_T)
    pairs = zip(vars(moved).values(), vars(state).values(), strict=True)
    return FamoState(*(torch.where(is_active_T, new_T, old_T) for new_T, old_T in pairs))


def _adam(state: FamoState, slopes_T: torch.Tensor) -> FamoState:
    """One step of Adam (Kingma and Ba, ICLR 2015)."""
    mean_decay, square_decay = BETAS
    steps_T = state.steps_T + 1
    mean_T = mean_decay * state.mean_T + (1 - mean_decay) * slopes_T
    square_T = square_decay * state.square_T + (1 - square_decay) * slopes_T.square()

    unbiased_mean_T = mean_T / (1 - mean_decay**steps_T)
    unbiased_square_T = square_T / (1 - square_decay**steps_T)
    logits_T = state.logits_T - LEARNING_RATE * unbiased_mean_T / (unbiased_square_T.sqrt() + EPSILON)
    return FamoState(logits_T, mean_T, square_T, steps_T)


def _shares(state: FamoState, is_active_T: torch.Tensor) -> torch.Tensor:
    """z: the softmax over the active tasks; 0 for the others."""
    logits_T = state.logits_T.where(is_active_T, torch.tensor(-torch.inf, dtype=torch.float64))
    return logits_T.softmax(dim=0).nan_to_num(0)


def _distance(losses_T: torch.Tensor, lowest_T: torch.Tensor | float) -> torch.Tensor:
    return (losses_T.double() - lowest_T).clamp(min=0) + SMALLEST_LOSS
