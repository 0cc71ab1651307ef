"""dselect_k.

Shapes: B rows, F features, E experts, T tasks.
"""

import torch
from torch import nn

from benchmarks.loops.gated import Level
from benchmarks.loops.parts import Perceptron, TowersLoop, weighted_sum
from models.heads.related.dselect_k import DSelectKConfig

EPSILON = 1e-6


class DSelectKLoop(nn.Module):
    """dselect_k: selectors, experts and bits one after another."""

    def __init__(self, config: DSelectKConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.config = config
        self.num_bits = (config.experts - 1).bit_length()
        level = Level(
            [Perceptron(num_features, config.end_to_end) for _ in range(config.experts)],
            [nn.Linear(num_features, config.k) for _ in range(num_tasks)],
        )
        level.codes = nn.ModuleList(nn.Linear(num_features, config.k * self.num_bits) for _ in range(num_tasks))
        self.levels = nn.ModuleList([level])
        self.towers = TowersLoop(config, num_tasks, config.end_to_end[-1])
        self.selected: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        (level,) = self.levels
        assert isinstance(level, Level)
        outputs = [expert(x) for expert in level.experts]
        fused = []
        self.selected = []
        assert isinstance(level.codes, nn.ModuleList)
        for gate, codes in zip(level.gates, level.codes, strict=True):
            shares_BK = torch.softmax(gate(x), dim=1)
            bits = codes(x)
            weights = torch.zeros(len(x), self.config.experts, dtype=x.dtype)
            for selector in range(self.config.k):
                own = bits[:, selector * self.num_bits : (selector + 1) * self.num_bits]
                selected_BE = self._select(own)
                self.selected.append(selected_BE)
                weights = weights + shares_BK[:, selector : selector + 1] * selected_BE
            fused.append(weighted_sum(weights, outputs))
        return self.towers(fused)

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:
        """Row by row, without those of weight 0."""
        rows = [row for row, weight in enumerate(weights_B) if weight > 0]
        entropy = codes = torch.zeros((), dtype=logits_BT.dtype)
        for selected_BE in self.selected:
            for row in rows:
                entropy = entropy - (selected_BE[row] * torch.log(selected_BE[row] + EPSILON)).sum()
                codes = codes + 1 / (selected_BE[row].sum() + EPSILON)
        penalties = {"entropy": self.config.entropy * entropy / len(weights_B)}
        if 2**self.num_bits > self.config.experts:
            penalties["codes"] = codes / len(weights_B)
        return penalties

    def _select(self, bits: torch.Tensor) -> torch.Tensor:
        """The probability of each expert's code."""
        columns = []
        for expert in range(self.config.experts):
            probability = torch.ones(len(bits), dtype=bits.dtype)
            for bit in range(self.num_bits):
                step = self._step(bits[:, bit])
                probability = probability * (step if expert // 2**bit % 2 else 1 - step)
            columns.append(probability)
        return torch.stack(columns, dim=1)

    def _step(self, z: torch.Tensor) -> torch.Tensor:
        gamma = self.config.gamma
        cubic = -2 / gamma**3 * z**3 + 3 / (2 * gamma) * z + 0.5
        return torch.where(z <= -gamma / 2, 0.0, torch.where(z >= gamma / 2, 1.0, cubic))
