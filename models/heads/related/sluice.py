"""Sluice network (Ruder, Bingel, Augenstein and Søgaard, AAAI 2019): subspaces of tasks mixed, and levels mixed.

    h_t      = the level's layers of task t, on f_t, in two halves h_{t,1}, h_{t,2}      (f⁰ = x)
    f_{t,i}' = Σ_{s,j} α_{(t,i),(s,j)} h_{s,j}               α: a learned 2T × 2T matrix per level
    tower    reads Σ_l β_{t,l} f_t^l                         β: a learned weight of each level for each task
    penalty  = orthogonality · Σ_{l,t} ‖W_{t,1} W_{t,2}ᵀ‖²   W_{t,i}: rows of the level's last layer that give h_{t,i}

In the paper the layers are recurrent, on text, and their matrices the penalised ones. α starts as in cross-stitch: 0.9
of itself, the rest shared; β at 0.9 for the last level.

Shapes: B rows, F features, T tasks, L levels, H width at the end of a level, the same for all, as they are added up.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from models.heads.base import FusionNames, Head, HeadConfig, Layers, Shares
from models.heads.cross_stitch import SELF_WEIGHT, Stitch
from models.layers import GroupedLinear, GroupedMLP, Towers, fuse


class SluiceConfig(HeadConfig):
    """A network for each task, whose halves are mixed after every level, and whose levels before the tower."""

    head: Literal["sluice"] = "sluice"
    levels: tuple[Layers, ...] = Field(default=((128,), (128,)), min_length=1)
    orthogonality: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Weight of the penalty that keeps the two halves of a task's layers apart; 0: none."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head; raises ValueError if levels end in different widths, or in an odd one."""
        ends = {level[-1] for level in self.levels}
        if len(ends) > 1 or any(width % 2 for width in ends):
            raise ValueError(
                f"model.levels = {[list(level) for level in self.levels]}: sluice halves the last layer of each level "
                "and adds levels up, so all must end in one even width"
            )
        return Sluice(self, num_features, len(tasks))

    def nearest_width(self, units: float) -> int:
        """Even, since layers are halved."""
        return 2 * max(round(units / 2), 1)


class Sluice(Head):
    """The head. Kept for backward beside what cross-stitch keeps: the mixed outputs of all levels, side by side."""

    of_level_and_task = frozenset({"levels"})
    of_all_tasks = frozenset({"stitches", "mixture"})

    def __init__(self, config: SluiceConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        inputs = (num_features, *(layers[-1] for layers in config.levels))
        width = inputs[-1]
        self.orthogonality = config.orthogonality
        self.num_tasks = num_tasks
        self.levels = nn.ModuleList()
        self.stitches = nn.ModuleList()

        for level_inputs, layers in zip(inputs, config.levels, strict=False):
            level = GroupedMLP([1] * num_tasks, level_inputs, layers, config.activation, config.dropout)
            self.levels.append(level)
            self.stitches.append(Stitch(2 * num_tasks, width // 2))

        self.mixture = LevelMixture(num_tasks, len(config.levels), width)
        self.towers = Towers(num_tasks, width, config.tower, config.activation, config.dropout)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        x = features_BF
        mixed = []
        for level, stitch in zip(self.levels, self.stitches, strict=True):
            h_BTH = level(x)
            halves_BSH = h_BTH.unflatten(2, (2, -1)).flatten(1, 2)  # S = 2 T
            x = stitch(halves_BSH).unflatten(1, (-1, 2)).flatten(2)
            mixed.append(x)
        return self.towers(self.mixture(torch.stack(mixed, dim=2)))

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """`orthogonality`."""
        if self.orthogonality == 0:
            return {}
        total = logits_BT.new_zeros(())
        for level in self.levels:
            assert isinstance(level, GroupedMLP)
            last = level.layers[-1]
            assert isinstance(last, GroupedLinear)
            first_TOI, second_TOI = last.weight.chunk(2, dim=1)
            total = total + torch.bmm(first_TOI, second_TOI.transpose(1, 2)).square().sum()
        return {"orthogonality": self.orthogonality * total}

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """α of each level, then β."""
        halves = [f"{task} {half}" for task in tasks for half in (1, 2)]
        levels = [f"level {number}" for number in range(len(self.levels))]
        return [*(FusionNames(halves, halves) for _ in self.levels), FusionNames(list(tasks), levels)]


class LevelMixture(nn.Module):
    """β."""

    def __init__(self, num_tasks: int, num_levels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(num_tasks, num_levels))
        self.shares = Shares()
        self.reset_parameters()

    @property
    def flops_per_row(self) -> int:
        """Of the product."""
        return 2 * self.weight.numel() * self.width

    def reset_parameters(self) -> None:
        """Near the last level; with one level all of it."""
        below = self.weight.shape[1] - 1
        with torch.no_grad():
            self.weight.fill_((1 - SELF_WEIGHT) / below if below else 1)
            if below:
                self.weight[:, -1] = SELF_WEIGHT

    def forward(self, x_BTLH: torch.Tensor) -> torch.Tensor:
        """mixed_BTH."""
        weights_BTL: torch.Tensor = self.shares(self.weight.expand(x_BTLH.shape[0], -1, -1))
        mixed_R1H = fuse(weights_BTL.flatten(0, 1).unsqueeze(1), x_BTLH.flatten(0, 1))  # R = B · T
        return mixed_R1H.view(*weights_BTL.shape[:2], self.width)
