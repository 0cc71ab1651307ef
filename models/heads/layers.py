"""Building blocks of the heads: many small networks side by side, each kind as one matrix product.

Shapes: B rows, G networks side by side, I input width, O output width.
"""

import math

import torch
from torch import nn


class GroupedLinear(nn.Module):
    """G linear layers side by side: one batched product where inputs differ, one plain product where they are the same.

    weight_GIO (weight_IGO where the input is common), bias_GO: uniform in ±1/sqrt(I), as torch.nn.Linear. It keeps for
    backward its input, and its output where ReLU is applied to it.
    """

    def __init__(
        self, groups: int, inputs: int, outputs: int, *, common_input: bool = False, relu: bool = False
    ) -> None:
        super().__init__()
        self.relu = relu
        self.groups, self.inputs, self.outputs, self.common_input = groups, inputs, outputs, common_input
        shape = (inputs, groups, outputs) if common_input else (groups, inputs, outputs)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(groups, outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights and biases from the default generator."""
        bound = 1 / math.sqrt(self.inputs)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_BI (common input) or x_GBI → y_GBO, for a common input as a view of [B, G, O] memory."""
        if self.common_input:
            y = torch.addmm(self.bias.view(-1), x, self.weight.view(self.inputs, -1))
        else:
            y = torch.baddbmm(self.bias[:, None, :], x, self.weight)
        y = y.relu_() if self.relu else y  # before any view of it: in place on a view, autograd would copy the whole
        return y.view(-1, self.groups, self.outputs).transpose(0, 1) if self.common_input else y


class GroupedMLP(nn.Module):
    """G perceptrons of the same shape side by side: each layer is linear, ReLU in place, dropout."""

    def __init__(
        self, groups: int, inputs: int, layers: tuple[int, ...], dropout: float, *, common_input: bool
    ) -> None:
        super().__init__()
        widths = (inputs, *layers)
        self.layers = nn.ModuleList(
            GroupedLinear(groups, widths[index], widths[index + 1], common_input=common_input and index == 0, relu=True)
            for index in range(len(layers))
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_BI (common input) or x_GBI → y_GBO."""
        for layer in self.layers:
            x = self.dropout(layer(x))
        return x


class Towers(nn.Module):
    """T task towers side by side: hidden layers, then one logit each."""

    def __init__(self, tasks: int, inputs: int, hidden: tuple[int, ...], dropout: float, *, common_input: bool) -> None:
        super().__init__()
        self.hidden = GroupedMLP(tasks, inputs, hidden, dropout, common_input=common_input)
        last = hidden[-1] if hidden else inputs
        self.logit = GroupedLinear(tasks, last, 1, common_input=common_input and not hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_TBI, or x_BI for a common input → logits_BT."""
        return self.logit(self.hidden(x)).squeeze(2).t()
