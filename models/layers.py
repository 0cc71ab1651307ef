"""Building blocks of the heads: many small networks side by side, as few large matrix products.

A unit is what has an input of its own: a task, or the shared experts. Its networks read that input.

Shapes: B rows, U units, N networks of all units, I input width, O output width, T tasks, E experts, H expert width.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional


class _ReLU(torch.autograd.Function):
    """torch.relu_, whose backward writes over the gradient that it is given: a fresh buffer costs 3 to 5 % of a step.

    Nothing else may hold that gradient. In the heads an activation has one reader, a product or a concatenation, whose
    backward makes a gradient for it alone.
    """

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        x.relu_()
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.mark_dirty(*inputs)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not gradient.is_contiguous():  # a second derivative is wanted, or it is a view
            return gradient * (y > 0)
        return torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient)


ActivationName = Literal["relu", "leaky_relu", "gelu", "silu", "tanh"]
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": _ReLU.apply,
    "leaky_relu": functional.leaky_relu_,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh_,
}
"""In place where the output is enough for backward."""


class GroupedLinear(nn.Module):
    """Linear layers side by side, `counts[u]` of them on the input of unit u; unit 0's come first.

    weight_NOI and bias_NO hold layer n as `torch.nn.Linear(I, O)` would, with its initial values. All layers on a
    common input are one product; on inputs that differ, units that follow each other with equal counts are one batched
    product, in which the layers of a unit lie side by side. Kept for backward: the input, and the activation's output
    (its input for gelu and silu).
    """

    def __init__(
        self, counts: Sequence[int], inputs: int, outputs: int, activation: ActivationName | None = None
    ) -> None:
        super().__init__()
        self.counts = list(counts)
        self.inputs = inputs
        self.outputs = outputs
        self.activation = ACTIVATIONS[activation] if activation else None
        self.runs = _runs(self.counts)
        self.weight = nn.Parameter(torch.empty(sum(counts), outputs, inputs))
        self.bias = nn.Parameter(torch.empty(sum(counts), outputs))
        self.reset_parameters()

    @property
    def flops_per_row(self) -> int:
        """Of the forward products."""
        return 2 * self.weight.numel()

    def reset_parameters(self) -> None:
        """Draws weights and biases, uniform in ±1/sqrt(I), from the default generator."""
        bound = 1 / math.sqrt(self.inputs)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_BI, common to all units, or x_BUI → y_BNO."""
        if x.dim() == 2:
            weight_MI = self.weight.view(-1, self.inputs)  # M = N · O: all networks as one wide layer
            y = torch.addmm(self.bias.view(-1), x, weight_MI.t())
            return self._activate(y).unflatten(1, (-1, self.outputs))

        outputs_UBO = self._batched(x.transpose(0, 1))
        if self.counts == [1] * len(self.counts):
            return outputs_UBO[0].transpose(0, 1)

        outputs: list[torch.Tensor] = []
        for y_UBO in outputs_UBO:
            outputs += y_UBO.unbind()

        return torch.cat(outputs, dim=1).unflatten(1, (-1, self.outputs))

    def _batched(self, x_UBI: torch.Tensor) -> list[torch.Tensor]:
        """y_UBO of each run: the outputs of a unit's layers side by side."""
        num_layers = [units * count for units, count in self.runs]  # split, not sliced: one gradient, not one per run
        inputs = x_UBI.split([units for units, _ in self.runs])
        parts = zip(inputs, self.weight.split(num_layers), self.bias.split(num_layers), strict=True)
        outputs = []

        for run_UBI, weight_NOI, bias_NO in parts:
            weight_UOI = weight_NOI.view(len(run_UBI), -1, self.inputs)
            bias_U1O = bias_NO.view(len(run_UBI), 1, -1)
            y_UBO = torch.baddbmm(bias_U1O, run_UBI, weight_UOI.transpose(1, 2))
            outputs.append(self._activate(y_UBO))

        return outputs

    def _activate(self, y: torch.Tensor) -> torch.Tensor:
        """Before any view is taken: in place on a view, autograd would copy the whole tensor."""
        return y if self.activation is None else self.activation(y)


def _runs(counts: list[int]) -> list[tuple[int, int]]:
    """(units, layers of each) of every stretch of units with equal counts."""
    return [(len(list(equal)), count) for count, equal in itertools.groupby(counts)]


class GroupedMLP(nn.Module):
    """Perceptrons side by side, `counts[u]` of them on unit u's input: linear layers, with activation and dropout."""

    def __init__(
        self, counts: Sequence[int], inputs: int, layers: Sequence[int], activation: ActivationName, dropout: float
    ) -> None:
        super().__init__()
        widths = (inputs, *layers)
        alone = [1] * sum(counts)  # from the second layer on, each perceptron has an input of its own
        self.layers = nn.ModuleList()

        for index, (width_in, width_out) in enumerate(pairwise(widths)):
            layer = GroupedLinear(alone if index else counts, width_in, width_out, activation)
            self.layers.append(layer)

        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_BI, common to all units, or x_BUI → y_BNO."""
        for layer in self.layers:
            x = self.dropout(layer(x))
        return x


class Towers(nn.Module):
    """One tower for each task: hidden layers, then a logit."""

    def __init__(
        self, num_tasks: int, inputs: int, hidden: Sequence[int], activation: ActivationName, dropout: float
    ) -> None:
        super().__init__()
        self.hidden = GroupedMLP([1] * num_tasks, inputs, hidden, activation, dropout)
        self.logit = GroupedLinear([1] * num_tasks, hidden[-1] if hidden else inputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_BI, common to all tasks, or x_BTI → logits_BT."""
        return self.logit(self.hidden(x)).squeeze(2)


def mix(weights_UE: torch.Tensor, x_BEH: torch.Tensor) -> torch.Tensor:
    """mixed_BUH, by weights that are the same for all rows: one product, over all rows and columns at once."""
    x_EBH = x_BEH.transpose(0, 1)
    mixed = torch.mm(weights_UE, x_EBH.flatten(1))
    return mixed.view(len(weights_UE), *x_EBH.shape[1:]).transpose(0, 1)


def fuse(weights_BUE: torch.Tensor, expert_BEH: torch.Tensor) -> torch.Tensor:
    """fused_BUH: every row's weighted sums of its experts. Kept for backward: both arguments."""
    return _Fusion.apply(weights_BUE.to(expert_BEH.dtype), expert_BEH)


class _Fusion(torch.autograd.Function):
    """torch.bmm, with the gradient of the weights as E·Dᵀ: MKL takes that 2.5 times as fast as autograd's D·Eᵀ."""

    @staticmethod
    def forward(weights_BUE: torch.Tensor, expert_BEH: torch.Tensor) -> torch.Tensor:
        return torch.bmm(weights_BUE, expert_BEH)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient_BUH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights_BUE, expert_BEH = ctx.saved_tensors
        weights_gradient_BEU = torch.bmm(expert_BEH, gradient_BUH.transpose(1, 2))
        return weights_gradient_BEU.transpose(1, 2), torch.bmm(weights_BUE.transpose(1, 2), gradient_BUH)
