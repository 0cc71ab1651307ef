"""What the gates of a head do, watched from outside: nothing is computed that the head does not compute anyway.

Shapes: B rows, U fused outputs of a level, E experts of the level.
"""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.storage.files import replace_text
from models.heads.base import Head
from models.heads.gated import FusionLevel
from trainer.distributed.world import World


class GateObserver:
    """The fusion weights of batches in training, or in evaluation, level by level."""

    def __init__(self, head: Head, tasks: Sequence[str], *, training: bool) -> None:
        self.names = head.fusion_names(tasks)
        self.levels = [module for module in head.modules() if isinstance(module, FusionLevel)]
        self._parts: list[list[torch.Tensor]] = [[] for _ in self.levels]
        self.native: list[torch.Tensor | None] = [None for _ in self.levels]
        """native_UE of each level in its last forward pass: by the next log point the optimizer has moved them."""
        self._training = training
        self._hooks = [
            level.register_forward_hook(partial(self._keep, number)) for number, level in enumerate(self.levels)
        ]

    def take(self) -> list[torch.Tensor]:
        """weights_BUE of each level since the last call, detached; [] where the head has no gates."""
        weights = [torch.cat(parts) for parts in self._parts if parts]
        for parts in self._parts:
            parts.clear()
        return weights

    def close(self) -> None:
        """Stops watching."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, number: int, level: nn.Module, _inputs: Any, outputs: Any) -> None:
        is_traced = not isinstance(outputs[1], torch.Tensor)
        if level.training == self._training and not is_traced:
            self._parts[number].append(outputs[1].detach())
            if self._training:
                native_UE = self.levels[number].native_weights(outputs[1])
                self.native[number] = None if native_UE is None else native_UE.detach()


class FusionMeans:
    """Means over a test set of the weight that each output puts on each expert, gate plus native part."""

    def __init__(self, head: Head, tasks: Sequence[str]) -> None:
        self._observer = GateObserver(head, tasks, training=False)
        self._sums: list[torch.Tensor] = []
        self._rows = torch.zeros(1, dtype=torch.float64)

    def update(self, is_row_B: torch.Tensor) -> None:
        """Adds the batch that the head has just seen, but for its padding."""
        weights, counted_B = self._observer.take(), is_row_B.double()
        sums = [torch.einsum("b,bue->ue", counted_B, weights_BUE.double()) for weights_BUE in weights]
        self._sums = [one + other for one, other in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._rows = self._rows.to(counted_B.device) + counted_B.sum()

    def compute(self, world: World) -> list[dict[str, Any]]:
        """Levels as the fusion file holds them; [] without gates. Collective: call on all ranks."""
        self._observer.close()
        rows = float(world.sum(self._rows))
        means = [world.sum(sums_UE) / rows for sums_UE in self._sums]
        return [
            {"units": names.units, "experts": names.experts, "weights": means_UE.tolist()}
            for names, means_UE in zip(self._observer.names, means, strict=False)
        ]


def gate_entropies(observer: GateObserver, weights: list[torch.Tensor]) -> dict[str, float]:
    """Of each gate the mean entropy on a batch, as a share of the largest possible: 0 where one expert takes all."""
    found = {}
    for number, (level, weights_BUE) in enumerate(zip(observer.levels, weights, strict=False)):
        native_UE = observer.native[number]
        gate_BUE = weights_BUE.double() if native_UE is None else weights_BUE.double() - native_UE
        entropy_U = -(gate_BUE * gate_BUE.clamp_min(1e-12).log()).sum(dim=2).mean(dim=0)
        for unit, seen, entropy in zip(observer.names[number].units, level.plan.sees, entropy_U.tolist(), strict=True):
            found[f"gate_entropy/{number}/{unit}"] = entropy / math.log(len(seen)) if len(seen) > 1 else 1.0
    return found


def write_fusion(path: Path, samples: int, levels: list[dict[str, Any]]) -> None:
    """Writes the means of an evaluation, in one step; nothing without gates."""
    if levels:
        replace_text(path, json.dumps({"samples": samples, "levels": levels}) + "\n")
