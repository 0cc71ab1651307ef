"""snr.

Shapes: B rows, F features, U outputs of a routing, E sub-networks of a level, H their width, T tasks.
"""

import math

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop
from models.heads.related.snr import SNRConfig

BETA, GAMMA, ZETA = 0.9, -0.1, 1.1


class RouteLoop(nn.Module):
    """The connections between two levels."""

    noise_UE: torch.Tensor

    def __init__(self, units: int, experts: int, width: int, transforms: bool) -> None:
        super().__init__()
        self.log_alpha_UE = nn.Parameter(torch.zeros(units, experts))
        self.register_buffer("noise_UE", torch.full((units, experts), 0.5), persistent=False)
        self.weight_UHEI = nn.Parameter(torch.zeros(units, width, experts, width)) if transforms else None

    def gate(self, unit: int, expert: int) -> torch.Tensor:
        """z: hard concrete."""
        score = self.log_alpha_UE[unit, expert]
        if self.training:
            u = self.noise_UE[unit, expert]
            score = (torch.log(u) - torch.log(1 - u) + score) / BETA
        return torch.clamp(torch.sigmoid(score) * (ZETA - GAMMA) + GAMMA, 0, 1)

    def forward(self, experts: list[torch.Tensor]) -> list[torch.Tensor]:
        """What each unit reads."""
        mixed = []
        for unit in range(len(self.log_alpha_UE)):
            total = torch.zeros_like(experts[0])
            for expert, output in enumerate(experts):
                handed_on = output if self.weight_UHEI is None else output @ self.weight_UHEI[unit, :, expert].t()
                total = total + self.gate(unit, expert) * handed_on
            mixed.append(total)
        return mixed


class SNRLoop(nn.Module):
    """snr: connections one after another."""

    def __init__(self, config: SNRConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.l0 = config.l0
        self.levels = nn.ModuleList()
        self.routes = nn.ModuleList()
        inputs = num_features
        for index, layers in enumerate(config.levels):
            units = num_tasks if index + 1 == len(config.levels) else config.experts
            self.levels.append(nn.ModuleList(Perceptron(inputs, layers) for _ in range(config.experts)))
            self.routes.append(RouteLoop(units, config.experts, layers[-1], config.routes == "transform"))
            inputs = layers[-1]
        self.towers = TowersLoop(config, num_tasks, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_units: list[torch.Tensor] = []
        for level, route in zip(self.levels, self.routes, strict=True):
            assert isinstance(level, nn.ModuleList)
            of_units = of_units or [x] * len(level)
            of_units = route([network(one) for network, one in zip(level, of_units, strict=True)])
        return self.towers(of_units)

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """The probability that a gate is not 0, summed."""
        total = torch.zeros((), dtype=logits_BT.dtype)
        for route in self.routes:
            assert isinstance(route, RouteLoop)
            for log_alpha in route.log_alpha_UE.flatten():
                total = total + torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))
        return {"l0": self.l0 * total}
