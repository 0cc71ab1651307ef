"""What the gates of a head do, watched from outside: only what the head computes anyway is used.

Shapes: B rows, U fused outputs (units) of a level, E experts of the level.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.storage.files import replace_text
from models.heads.base import Head, Sharing
from models.heads.gated import FusionLevel
from models.ranker import StepOutput
from trainer.distributed.world import World
from trainer.evaluation.accumulator import Accumulator
from trainer.run.jsonl import json_line
from trainer.run.matrices import Fusion, LevelWeights


class GateObserver:
    """Collects the fusion weights of batches in training, or in evaluation, level by level."""

    def __init__(self, head: Head, tasks: Sequence[str], *, training: bool) -> None:
        self.names = head.fusion_names(tasks)
        kind = FusionLevel if training else Sharing  # in training only the gates, for their entropies
        self.levels = [module for module in head.modules() if isinstance(module, kind)]
        self._batches: list[list[torch.Tensor]] = []
        """weights_BUE of each level in the forward passes since the last `take`."""
        self.native: list[torch.Tensor | None] = []
        """native_UE of each level in its last forward pass: by the next log point the optimizer has changed them."""

        self._training = training
        self._hooks = []

        for index, level in enumerate(self.levels):
            self._batches.append([])
            self.native.append(None)
            hook = level.register_forward_hook(partial(self._keep, index))
            self._hooks.append(hook)

    def take(self) -> list[torch.Tensor]:
        """weights_BUE of each level since the last call, detached; [] if the head has no gates."""
        weights = [torch.cat(batches) for batches in self._batches if batches]
        for batches in self._batches:
            batches.clear()
        return weights

    def close(self) -> None:
        """Stops watching."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, index: int, level: nn.Module, _inputs: Any, outputs: Any) -> None:
        """Forward hook of the level with this index."""
        weights_BUE = self.levels[index].weights_of(outputs)
        # While torch.fx traces the model, outputs are proxies without values.
        is_traced = not isinstance(weights_BUE, torch.Tensor)
        if level.training != self._training or is_traced:
            return

        self._batches[index].append(weights_BUE.detach())
        if self._training:
            native_UE = self.levels[index].native_weights(weights_BUE)
            self.native[index] = None if native_UE is None else native_UE.detach()


class FusionMeans(Accumulator[list[LevelWeights]]):
    """Means over a test set of the weight that each output puts on each expert, gate plus native part."""

    def __init__(self, head: Head, tasks: Sequence[str]) -> None:
        self._observer = GateObserver(head, tasks, training=False)
        self._sums: list[torch.Tensor] = []
        """sums_UE of each level, float64."""
        self._num_rows = torch.zeros(1, dtype=torch.float64)

    def update(self, step: StepOutput) -> None:
        """Adds the weights of the batch that the head has just seen, without its padding."""
        is_row_B = (step.row_ids_B >= 0).double()
        weights = self._observer.take()
        sums = [torch.einsum("b,bue->ue", is_row_B, weights_BUE.double()) for weights_BUE in weights]

        if not self._sums:
            self._sums = sums
        else:
            for total_UE, sums_UE in zip(self._sums, sums, strict=True):
                total_UE += sums_UE

        before = self._num_rows.to(is_row_B.device)
        self._num_rows = before + is_row_B.sum()

    def compute(self, world: World) -> list[LevelWeights]:
        """The mean weights of each level; [] if the head has no gates. Collective: call on all ranks."""
        self._observer.close()
        # Every rank runs the same head: the same number of sums, in the same order.
        num_rows = float(world.sum(self._num_rows))
        means = [world.sum(sums_UE) / num_rows for sums_UE in self._sums]

        levels = []
        for names, means_UE in zip(self._observer.names, means, strict=False):
            weights = means_UE.tolist()
            levels.append(LevelWeights(units=list(names.units), experts=list(names.experts), weights=weights))

        return levels


def gate_entropies(observer: GateObserver, weights: list[torch.Tensor]) -> dict[str, float]:
    """The mean entropy of each gate on a batch, as a share of the largest possible: 0 if one expert takes all.

    weights: weights_BUE of each level, as `GateObserver.take` returns them.
    """
    entropies = {}
    for index, (level, weights_BUE) in enumerate(zip(observer.levels, weights, strict=False)):
        assert isinstance(level, FusionLevel)
        gate_BUE = weights_BUE.double()
        native_UE = observer.native[index]
        if native_UE is not None:
            gate_BUE = gate_BUE - native_UE

        # Clamped, since 0 · ln 0 would be NaN; its limit is 0.
        log_gate_BUE = gate_BUE.clamp_min(1e-12).log()
        entropy_U = -(gate_BUE * log_gate_BUE).sum(dim=2).mean(dim=0)
        units = observer.names[index].units
        for unit, experts, entropy in zip(units, level.plan.sees, entropy_U.tolist(), strict=True):
            share = entropy / math.log(len(experts)) if len(experts) > 1 else 1.0
            entropies[f"gate_entropy/{index}/{unit}"] = share

    return entropies


def write_fusion(path: Path, samples: int, levels: list[LevelWeights]) -> None:
    """Writes the mean weights of an evaluation, replacing the file in one step; no file if there are no gates."""
    if levels:
        replace_text(path, json_line(Fusion(samples=samples, levels=levels)))
