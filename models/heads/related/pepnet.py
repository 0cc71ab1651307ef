"""PEPNet (Chang et al., KDD 2023): gates that a few chosen features set, on the input and on every task's hidden units.

    gate unit    U(v) = γ sigmoid(relu(v W + b) W' + b')            γ = 2, so that a gate of 1 is in the middle
    EPNet        o    = U_ep([p, ⊘x]) ⊙ x
    PPNet        g^l  = U_pp^l([p, ⊘o])                              [g_1^l, …, g_T^l] of all tasks at once
                 h_t^l = g_t^l ⊙ relu(h_t^{l-1} W_t^l + b_t^l)       h_t^0 = o
    logit of t   = linear on the last h_t

p are the columns of the chosen features, x all columns; ⊘ stops gradients: a gate unit trains what x and o are made of
through p alone. Layers l are those of all levels, then those of the tower.

The paper sets EPNet by features of the domain, PPNet by user, item and author; here both read the same features.

Shapes: B rows, F columns, P of them that are p, S features, T tasks, L layers, H width of one, W width of gate units.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from models.columns import Columns, unnamed_columns
from models.heads.base import FusionNames, Head, HeadConfig, Sharing, Width
from models.layers import GroupedLinear, GroupedMLP, Towers

GAMMA = 2.0


class PEPNetConfig(HeadConfig):
    """A network for each task, whose input and hidden units a few features scale row by row."""

    head: Literal["pepnet"] = "pepnet"
    gate_features: tuple[str, ...] = ()
    """Features that set the gates: names of sparse ones, columns of dense ones, as in ["user_id", "tab"]; [] is all."""
    gate_width: Width = 64
    """Hidden units of each gate unit: one for the input, one for each layer."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head on columns without names."""
        return self.build_for(unnamed_columns(num_features), tasks)

    def build_for(self, columns: Columns, tasks: Sequence[str]) -> Head:
        """The head; raises ValueError for features that there are not, or one named twice."""
        for name in self.gate_features:
            if name not in columns.names:
                raise ValueError(f"model.gate_features names {name!r}; the features are {', '.join(columns.names)}")
        if len(set(self.gate_features)) < len(self.gate_features):
            raise ValueError(f"model.gate_features = {list(self.gate_features)} names a feature twice")
        return PEPNet(self, columns, len(tasks))

    @property
    def features_by_name(self) -> tuple[str, ...]:
        """Those that set the gates."""
        return self.gate_features


class PEPNet(Head):
    """The head."""

    of_task = frozenset({"trunk", "towers"})
    of_level_and_task = frozenset({"outer"})
    of_columns = frozenset({"epnet", "inner"})

    def __init__(self, config: PEPNetConfig, columns: Columns, num_tasks: int) -> None:
        super().__init__()
        self.columns = columns
        self.prior = columns.spans_of(config.gate_features or columns.names)
        inputs = sum(end - first for first, end in self.prior) + columns.width
        layers = config.end_to_end
        widths = (*layers, *config.tower)
        self.epnet = EPNet(columns, inputs, config.gate_width)
        self.inner = GroupedLinear([len(widths)], inputs, config.gate_width, "relu")
        """W of the gate units of all layers."""
        self.outer = nn.ModuleList(GroupedLinear([num_tasks], config.gate_width, width) for width in widths)
        """W' of each: a gate for every task."""
        self.trunk = GroupedMLP([1] * num_tasks, columns.width, layers, config.activation, config.dropout)
        self.task_gates = TaskGates()
        self.towers = Towers(num_tasks, layers[-1], config.tower, config.activation, config.dropout)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        prior_BP = torch.cat([features_BF[:, first:end] for first, end in self.prior], dim=1)
        x = self.epnet(prior_BP, features_BF)
        hidden_BLW = self.inner(torch.cat([prior_BP, x.detach()], dim=1))

        gates = []
        layers = (*self.trunk.layers, *self.towers.hidden.layers)
        for layer, outer, hidden_BW in zip(layers, self.outer, hidden_BLW.unbind(dim=1), strict=True):
            gate_BTH = GAMMA * outer(hidden_BW).sigmoid()
            x = gate_BTH * self.trunk.dropout(layer(x))
            gates.append(gate_BTH)

        self.task_gates(gates)
        logits_BT: torch.Tensor = self.towers.logit(x).squeeze(2)
        return logits_BT

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """Mean gates: of each feature's columns, then of each task's layers; 1 leaves things as they are."""
        layers = [f"layer {number}" for number in range(len(self.outer))]
        return [FusionNames(["all tasks"], list(self.columns.names)), FusionNames(list(tasks), layers)]


class EPNet(nn.Module):
    """Scales the input."""

    def __init__(self, columns: Columns, inputs: int, width: int) -> None:
        super().__init__()
        self.inner = GroupedLinear([1], inputs, width, "relu")
        self.outer = GroupedLinear([1], width, columns.width)
        self.feature_gates = FeatureGates(columns)

    def forward(self, prior_BP: torch.Tensor, features_BF: torch.Tensor) -> torch.Tensor:
        """gated_BF."""
        hidden_B1W = self.inner(torch.cat([prior_BP, features_BF.detach()], dim=1))
        gate_B1F = GAMMA * self.outer(hidden_B1W).sigmoid()
        gate_BF: torch.Tensor = self.feature_gates(gate_B1F.squeeze(1))
        return gate_BF * features_BF


class FeatureGates(Sharing):
    """Where the gates of the input can be watched."""

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self.spans = columns.spans

    def forward(self, gate_BF: torch.Tensor) -> torch.Tensor:
        """The same."""
        return gate_BF

    def weights_of(self, outputs: torch.Tensor) -> torch.Tensor:
        """means_B1S, over the columns of a feature."""
        means = [outputs[:, first:end].mean(dim=1) for first, end in self.spans]
        return torch.stack(means, dim=1).unsqueeze(1)


class TaskGates(Sharing):
    """Where the gates of all layers can be watched."""

    def forward(self, gates: list[torch.Tensor]) -> list[torch.Tensor]:
        """The same."""
        return gates

    def weights_of(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """means_BTL, over the units of a layer."""
        return torch.stack([gate_BTH.mean(dim=2) for gate_BTH in outputs], dim=2)
