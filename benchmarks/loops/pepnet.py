"""pepnet.

Shapes: B rows, F columns, T tasks.
"""

from typing import Any

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.related.pepnet import PEPNetConfig


class PEPNetLoop(nn.Module):
    """pepnet: gate after gate; features are columns, by their numbers."""

    def __init__(self, config: PEPNetConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        chosen = [int(name.removeprefix("feature ")) for name in config.gate_features]
        self.prior = sorted(chosen) or list(range(num_features))
        inputs = len(self.prior) + num_features
        widths = (*config.end_to_end, *config.tower)
        width = config.gate_width
        self.epnet = nn.ModuleDict(
            {
                "inner": nn.ModuleList([nn.Linear(inputs, width)]),
                "outer": nn.ModuleList([nn.Linear(width, num_features)]),
            }
        )
        self.inner = nn.ModuleList(nn.Linear(inputs, width) for _ in widths)
        self.outer = nn.ModuleList(nn.ModuleList(nn.Linear(width, units) for _ in range(num_tasks)) for units in widths)
        self.trunk = nn.ModuleList(Perceptron(num_features, config.end_to_end) for _ in range(num_tasks))
        self.towers = TowersLoop(config, num_tasks, config.end_to_end[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        prior = x[:, self.prior]
        epnet: Any = self.epnet
        hidden_of_input = torch.relu(epnet["inner"][0](torch.cat([prior, x.detach()], dim=1)))
        gated = gate(epnet["outer"][0], hidden_of_input) * x
        read = torch.cat([prior, gated.detach()], dim=1)

        hiddens = [torch.relu(inner(read)) for inner in self.inner]
        outers: Any = self.outer
        trunks: Any = self.trunk
        towers: Any = self.towers
        logits = []
        for task, (trunk, tower) in enumerate(zip(trunks, towers, strict=True)):
            layers = list(trunk) + list(tower)
            hidden = gated
            for layer, of_gate, outer in zip(layers[:-1], hiddens, outers, strict=True):
                hidden = torch.relu(layer(hidden)) * gate(outer[task], of_gate)
            logits.append(layers[-1](hidden))
        return torch.cat(logits, dim=1)


def gate(outer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Between 0 and 2."""
    scores: torch.Tensor = outer(hidden)
    return 2 / (1 + torch.exp(-scores))
