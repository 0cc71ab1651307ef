"""SNR, sub-network routing (Ma, Zhao, Chen, Li, Hong and Chi, AAAI 2019): learned 0-1 gates between sub-networks.

    E_j  = sub-network j of the level, on its input                          (x on the first level)
    f_i' = Σ_j z_{ij} W_{ij} E_j      (transform)      or      Σ_j z_{ij} E_j      (average)
    i    = sub-networks of the next level; behind the last level the tasks

The gates are hard concrete (Louizos, Welling and Kingma, ICLR 2018), the same for all rows of a step:

    u ~ uniform(0, 1)                                                        drawn anew in each training step
    s = sigmoid((ln u - ln(1 - u) + ln α) / β)
    z = min(1, max(0, s (ζ - γ) + γ))                                        β = 0.9, γ = -0.1, ζ = 1.1
    z = min(1, max(0, sigmoid(ln α) (ζ - γ) + γ))                            in evaluation
    penalty = l0 · Σ sigmoid(ln α - β ln(-γ/ζ))                              expected number of open gates

ln α starts at 0. Public code differs: one version learns u, one lets α go below 0, one leaves W as it was drawn.

Shapes: B rows, F features, T tasks, U outputs of a routing, E sub-networks of a level, H their width.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from data.hashing import stable_seed
from models.heads.base import ExpertCount, FusionNames, Head, HeadConfig, Shares
from models.layers import GroupedMLP, Towers, mix

BETA, GAMMA, ZETA = 0.9, -0.1, 1.1


class SNRConfig(HeadConfig):
    """Sub-networks on every level, whose connections are learned to be open or shut."""

    head: Literal["snr"] = "snr"
    experts: ExpertCount = 4
    """Sub-networks on each level, shared by all tasks."""
    routes: Literal["transform", "average"] = "transform"
    """What a connection does: multiplies by a matrix of its own, or hands on as it is."""
    l0: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    """Weight of the penalty on the expected number of open connections; 0: none."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head."""
        return SNR(self, num_features, len(tasks))


class SNR(Head):
    """The head."""

    of_all_tasks = frozenset({"routes"})

    def __init__(self, config: SNRConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.l0 = config.l0
        self.levels = nn.ModuleList()
        routes: list[Average] = []
        alone = [1] * config.experts
        inputs = num_features
        for index, layers in enumerate(config.levels):
            is_last = index == len(config.levels) - 1
            self.levels.append(GroupedMLP(alone, inputs, layers, config.activation, config.dropout))
            route = Transform if config.routes == "transform" else Average
            routes.append(route(num_tasks if is_last else config.experts, config.experts, layers[-1]))
            inputs = layers[-1]

        self.routes = nn.ModuleList(routes)
        self._routes = routes
        self.towers = Towers(num_tasks, inputs, config.tower, config.activation, config.dropout)

    def begin(self, samples: int, seed: int) -> None:  # noqa: ARG002
        """Draws u of every gate."""
        for index, route in enumerate(self._routes):
            route.draw(stable_seed(seed, index))

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        x = features_BF
        for level, route in zip(self.levels, self.routes, strict=True):
            x = route(level(x))
        return self.towers(x)

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """`l0`."""
        if self.l0 == 0:
            return {}
        log_alpha = torch.cat([route.log_alpha_UE.flatten() for route in self._routes])
        return {"l0": self.l0 * (log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid().sum()}

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """The gates as in evaluation, level by level."""
        experts = [f"expert {expert}" for expert in range(self._routes[0].log_alpha_UE.shape[1])]
        return [*(FusionNames(experts, experts) for _ in self.routes[1:]), FusionNames(list(tasks), experts)]


class Average(nn.Module):
    """Gated sums. Kept for backward: the input, with its sub-networks in front of its rows."""

    noise_UE: torch.Tensor

    def __init__(self, num_units: int, num_experts: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.log_alpha_UE = nn.Parameter(torch.empty(num_units, num_experts))
        self.register_buffer("noise_UE", torch.full((num_units, num_experts), 0.5), persistent=False)
        self.shares = Shares()
        self.reset_parameters()

    @property
    def flops_per_row(self) -> int:
        """Of the product."""
        return 2 * self.log_alpha_UE.numel() * self.width

    def reset_parameters(self) -> None:
        """Every gate half open."""
        nn.init.zeros_(self.log_alpha_UE)

    def draw(self, seed: int) -> None:
        """u of the step."""
        generator = torch.Generator().manual_seed(seed)
        drawn_UE = torch.rand(self.noise_UE.shape, generator=generator, dtype=self.noise_UE.dtype)
        self.noise_UE.copy_(drawn_UE, non_blocking=True)

    def gates(self) -> torch.Tensor:
        """z_UE: sampled in training, as expected in evaluation."""
        sampled_UE = (self.noise_UE.logit() + self.log_alpha_UE) / BETA
        score_UE = sampled_UE if self.training else self.log_alpha_UE
        return (score_UE.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def forward(self, x_BEH: torch.Tensor) -> torch.Tensor:
        """mixed_BUH."""
        gates_UE = self.gates()
        self.shares(gates_UE.expand(x_BEH.shape[0], -1, -1))
        return self.mix(gates_UE, x_BEH)

    def mix(self, gates_UE: torch.Tensor, x_BEH: torch.Tensor) -> torch.Tensor:
        """mixed_BUH."""
        return mix(gates_UE, x_BEH)


class Transform(Average):
    """Gated sums of transformed inputs. Kept for backward: the input, and the gated matrices."""

    def __init__(self, num_units: int, num_experts: int, width: int) -> None:
        super().__init__(num_units, num_experts, width)
        self.weight_UHEI = nn.Parameter(torch.empty(num_units, width, num_experts, width))
        self.reset_parameters()

    @property
    def flops_per_row(self) -> int:
        """Of the product."""
        return 2 * self.weight_UHEI.numel()

    def reset_parameters(self) -> None:
        """Every gate half open; matrices as `torch.nn.Linear` draws them."""
        super().reset_parameters()
        if hasattr(self, "weight_UHEI"):
            nn.init.uniform_(self.weight_UHEI, -1 / math.sqrt(self.width), 1 / math.sqrt(self.width))

    def mix(self, gates_UE: torch.Tensor, x_BEH: torch.Tensor) -> torch.Tensor:
        """mixed_BUH: the gated matrices side by side are one product."""
        gated_UHEI = gates_UE[:, None, :, None] * self.weight_UHEI
        mixed_BM = torch.mm(x_BEH.flatten(1), gated_UHEI.flatten(2).flatten(0, 1).t())  # M = U · H
        return mixed_BM.unflatten(1, (-1, self.width))
