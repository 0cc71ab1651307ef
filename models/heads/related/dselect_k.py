"""DSelect-k (Hazimeh et al., NeurIPS 2021): MMoE whose gates choose k experts, by binary codes that learn smoothly.

    z_i    = C_i x + c_i                  m = ⌈log2 E⌉ bits of selector i = 1 … k
    S(z)   = 0 below -γ/2, 1 above γ/2, between them -2 z³/γ³ + 3 z/(2 γ) + 1/2              γ = 1
    r_{ie} = Π_b S(z_{ib}) where bit b of e is 1, 1 - S(z_{ib}) where it is 0
    G_e    = Σ_i softmax(A x + a)_i r_{ie}
    f_t    = Σ_e G_{t,e} E_e(x)           experts are perceptrons of all levels end to end, as in mmoe

    penalties:  entropy · mean_rows Σ_{t,i,e} -r ln r                        each selector comes to one expert
                codes: mean_rows Σ_{t,i} 1 / Σ_e r, where E is no power of 2: codes of no expert are left

This is the paper's gate per example (section 4); C and c start within ±γ/100. The authors' code adds the second
penalty up over the rows of a batch.

Shapes: B rows, F features, T tasks, E experts, K selectors of a task, M bits.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from models.heads.base import ExpertCount, HeadConfig
from models.heads.gated import FusionLevel, GatedHead, LevelPlan, LevelWidths, towers_above
from models.layers import GroupedLinear

EPSILON = 1e-6
"""Keeps ln r and 1 / Σ r finite: S reaches 0."""


class DSelectKConfig(HeadConfig):
    """MMoE with gates that choose k experts."""

    head: Literal["dselect_k"] = "dselect_k"
    experts: ExpertCount = 4
    """Experts, shared by all tasks. Best a power of two: otherwise a penalty keeps gates from codes of no expert."""
    k: ExpertCount = 2
    """Experts that a gate chooses at most."""
    gamma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Width of the smooth step."""
    entropy: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    """Weight of the penalty on selectors that have not chosen; 0: none."""

    def build(self, num_features: int, tasks: Sequence[str]) -> "DSelectK":
        """The head; raises ValueError where there is nothing to choose from."""
        if self.experts < 2:
            raise ValueError("model.experts = 1: dselect_k chooses between experts; give 2 or more, or use mmoe")
        return DSelectK(self, num_features, len(tasks))


class DSelectK(GatedHead):
    """The head."""

    def __init__(self, config: DSelectKConfig, num_features: int, num_tasks: int) -> None:
        level = SelectingLevel(config, num_features, num_tasks)
        super().__init__([level], towers_above([level], num_tasks, config), gates_read="features")
        self.entropy = config.entropy

    def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        (level,) = self.levels
        assert isinstance(level, SelectingLevel)
        level.take()
        return super().forward(features_BF)

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """`entropy`, and `codes` where some belong to no expert."""
        (level,) = self.levels
        assert isinstance(level, SelectingLevel)
        parts = level.take()
        if not parts:
            return {}

        is_row_B = weights_B > 0
        selected_BNE = torch.cat(parts)
        total_BN = selected_BNE.sum(dim=2)
        entropy_BN = -(selected_BNE * (selected_BNE + EPSILON).log()).sum(dim=2)
        penalties = {}
        if self.entropy:
            penalties["entropy"] = self.entropy * (entropy_BN.sum(dim=1) * is_row_B).mean()
        if level.has_empty_codes:
            unused_B = (1 / (total_BN + EPSILON)).sum(dim=1)
            penalties["codes"] = (unused_B * is_row_B).mean()
        return penalties


class SelectingLevel(FusionLevel):
    """The experts, and the gates. Kept for backward beside what a level keeps: bits, their steps and products."""

    is_one_ME: torch.Tensor
    """Whether bit b of the number of expert e is 1."""

    def __init__(self, config: DSelectKConfig, num_features: int, num_tasks: int) -> None:
        all_experts = list(range(config.experts))
        plan = LevelPlan([1] * config.experts, sees=[all_experts] * num_tasks)
        super().__init__(plan, LevelWidths(num_features, num_features, config.end_to_end), config)
        self.k = config.k
        self.gamma = config.gamma
        num_bits = (config.experts - 1).bit_length()
        self.has_empty_codes = 1 << num_bits > config.experts
        self.gates = GroupedLinear([config.k] * num_tasks, num_features, 1)
        self.codes = Codes([config.k * num_bits] * num_tasks, num_features, config.gamma / 100)
        is_one = [[expert >> bit & 1 == 1 for expert in all_experts] for bit in range(num_bits)]
        self.register_buffer("is_one_ME", torch.tensor(is_one), persistent=False)
        self._selected: list[torch.Tensor] = []

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """gate_BTE."""
        num_bits, num_experts = self.is_one_ME.shape
        num_tasks = self.num_fused
        bits_BNM = self.codes(x).view(x.shape[0], num_tasks * self.k, num_bits)  # N = T · K
        selected_BNE = self._select(bits_BNM)
        if self.training and torch.is_grad_enabled():
            self._selected.append(selected_BNE)
        share_BTK = self.gates(x).view(x.shape[0], num_tasks, self.k).softmax(dim=2)
        return (share_BTK[..., None] * selected_BNE.view(*share_BTK.shape, num_experts)).sum(dim=2)

    def take(self) -> list[torch.Tensor]:
        """What the selectors chose in the forward passes since the last call, selected_BNE."""
        selected, self._selected = self._selected, []
        return selected

    def _select(self, bits_BNM: torch.Tensor) -> torch.Tensor:
        """selected_BNE: how much each selector takes of each expert."""
        step_BNM = smooth_step(bits_BNM, self.gamma)
        factors = self._factors(step_BNM)
        selected_BNE = next(factors)
        for factor_BNE in factors:
            selected_BNE = selected_BNE * factor_BNE
        return selected_BNE

    def _factors(self, step_BNM: torch.Tensor) -> Iterator[torch.Tensor]:
        for is_one_E, step_BN in zip(self.is_one_ME, step_BNM.unbind(dim=2), strict=True):
            yield torch.where(is_one_E, step_BN[..., None], 1 - step_BN[..., None])


class Codes(GroupedLinear):
    """The bits of all selectors."""

    def __init__(self, counts: list[int], inputs: int, bound: float) -> None:
        self.bound = bound
        super().__init__(counts, inputs, 1)

    def reset_parameters(self) -> None:
        """All experts alike, nearly."""
        nn.init.uniform_(self.weight, -self.bound, self.bound)
        nn.init.uniform_(self.bias, -self.bound, self.bound)


def smooth_step(z: torch.Tensor, gamma: float) -> torch.Tensor:
    """S(z): 0, 1, and between them a cubic."""
    inside = (z / gamma).clamp(-0.5, 0.5)
    return inside * (1.5 - 2 * inside.square()) + 0.5
