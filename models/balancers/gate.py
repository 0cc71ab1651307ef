"""The place in the network where the gradients of the tasks meet, and one gradient goes on to what they share.

    embeddings ──► x ──► gate ──► y ──► head ──► losses_T
                   ▲              │
                   │              └── ∂L_t/∂y of each task, by torch.autograd.grad: passes through the head alone
                   └── in the backward pass: Σ α_t ∂L_t/∂y in place of what comes from above

Shapes: B rows, F width of the shared representation, T tasks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class GradientGate(nn.Module):
    """The identity; in training its backward pass hands on `replacement` where there is one.

    On a CPU a head works on parts of the rows: y is then several tensors, in the order of the rows.
    """

    def __init__(self, read: Callable[[torch.Tensor], torch.Tensor] = lambda y_BF: y_BF) -> None:
        """`read`: what the tasks read of y."""
        super().__init__()
        self._read = read
        self.parts: list[torch.Tensor] = []
        """y of the newest forward pass."""
        self.replacement: list[torch.Tensor] | None = None
        """The gradient of each part that is handed on."""

    def open(self) -> None:
        """Before a forward pass."""
        self.parts = []
        self.replacement = None

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        """y_BF, or what the tasks read of it."""
        if not (isinstance(x_BF, torch.Tensor) and torch.is_grad_enabled() and x_BF.requires_grad):
            return self._read(x_BF)  # evaluation, or while the model is traced
        y_BF: torch.Tensor = _Replace.apply(x_BF, self, len(self.parts))
        self.parts.append(y_BF)
        return self._read(y_BF)

    def gradients(self, losses_T: torch.Tensor) -> torch.Tensor:
        """g_TBF: the gradient of each loss with regard to y; the graph stays for the backward pass that follows."""
        num_rows = sum(map(len, self.parts))
        gradient_TBF = self.parts[0].new_empty(len(losses_T), num_rows, *self.parts[0].shape[1:])
        for loss, gradient_BF in zip(losses_T, gradient_TBF, strict=True):
            of_parts = torch.autograd.grad(loss, self.parts, retain_graph=True, materialize_grads=True)
            torch.cat(of_parts, out=gradient_BF)
        return gradient_TBF

    def hand_on(self, gradient_BF: torch.Tensor) -> None:
        """What the coming backward pass gives to x."""
        self.replacement = list(gradient_BF.split([len(part) for part in self.parts]))


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BF: torch.Tensor, gate: GradientGate, part: int) -> torch.Tensor:
        ctx.gate, ctx.part = gate, part
        return x_BF.view_as(x_BF)

    @staticmethod
    def backward(ctx: Any, gradient_BF: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        replacement = ctx.gate.replacement
        return (gradient_BF if replacement is None else replacement[ctx.part]), None, None
