"""What every head has in common: features_BF in, logits_BT out.

Shapes: B rows, F features, T tasks, U fused outputs, E experts.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Self

import torch
from pydantic import Discriminator, Field, Tag
from torch import nn

from data.settings import Settings
from models.columns import Columns
from models.layers import ActivationName

ROWS_IN_CACHE = 1024
"""Rows that a CPU takes through the head at once: few enough to stay near its cache, enough for the products."""
Width = Annotated[int, Field(gt=0, le=1 << 16)]
Layers = Annotated[tuple[Width, ...], Field(min_length=1)]
ExpertCount = Annotated[int, Field(gt=0, le=1024)]
TaskExperts = Annotated[
    Annotated[ExpertCount, Tag("number")] | Annotated[tuple[ExpertCount, ...], Field(min_length=1), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "number"),
]
"""One number, or one for each task."""


class HeadConfig(Settings):
    """The head. A key that it does not use is an error."""

    levels: tuple[Layers, ...] = Field(default=((256,), (128,)), min_length=1)
    """Hidden units, per level: [[256], [128]] is two levels of one layer each. Heads that fuse do so after every level;
    shared_bottom, mrn, single_task, mmoe, dselect_k, aitm, pepnet and stem lay the levels end to end. In soft_ordering
    all layers have one width, in sluice all levels end in one even width, in adashare in one width; there the default
    is [[128], [128]]."""
    tower: tuple[Width, ...] = (64,)
    """Hidden units of each task's tower; [] is a single linear layer."""
    activation: ActivationName = "relu"
    """After every hidden layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of hidden units that a training step drops, after every hidden layer."""

    @abstractmethod
    def build(self, num_features: int, tasks: Sequence[str]) -> "Head":
        """The head, which has a logit for each of these tasks; raises ValueError if the numbers do not fit together."""

    def build_for(self, columns: Columns, tasks: Sequence[str]) -> "Head":
        """The same, on columns that belong to features; a head that wants some by name overrides this."""
        return self.build(columns.width, tasks)

    def build_on_meta(self, columns: Columns | int, tasks: Sequence[str]) -> "Head":
        """The head without memory: for its checks, shapes and counts. It cannot be given memory afterwards.

        `columns`: a number is one of columns without names.
        """
        with torch.device("meta"):
            return self.build(columns, tasks) if isinstance(columns, int) else self.build_for(columns, tasks)

    def embeddings_per_id(self, num_tasks: int) -> int:  # noqa: ARG002
        """How many embeddings of each id the head reads; a table holds them side by side in each row."""
        return 1

    @property
    def features_by_name(self) -> tuple[str, ...]:
        """Features that the head treats unlike the others; () where none is named."""
        return ()

    def of_width(self, width: int) -> Self:
        """The head with a first layer of this width, and the others in proportion; the nearest that it can have."""
        first = self.levels[0][0]
        levels = tuple(tuple(self.nearest_width(units * width / first) for units in level) for level in self.levels)
        return self.model_copy(update={"levels": levels})

    def nearest_width(self, units: float) -> int:
        """Of a layer."""
        return max(round(units), 1)

    @property
    def end_to_end(self) -> tuple[int, ...]:
        """The layers of all levels."""
        return tuple(width for level in self.levels for width in level)


@dataclass(frozen=True)
class FusionNames:
    """What the rows and columns of a level's fusion weights stand for."""

    units: list[str]
    experts: list[str]


class Sharing(nn.Module):
    """A module whose forward knows what each unit takes from each source; the report watches it."""

    def weights_of(self, outputs: Any) -> torch.Tensor:
        """weights_BUE, among what the forward has returned."""
        weights_BUE: torch.Tensor = outputs
        return weights_BUE

    def native_weights(self, like: torch.Tensor) -> torch.Tensor | None:  # noqa: ARG002
        """native_UE: what is added whatever the input, of the type of `like`; None: nothing (but AdaTT)."""
        return None


class Shares(Sharing):
    """Hands on weights_BUE as they are, where they can be watched."""

    def forward(self, weights_BUE: torch.Tensor) -> torch.Tensor:
        """The same."""
        return weights_BUE


class Head(nn.Module):
    """What turns features_BF into logits_BT.

    A subclass implements `logits`. One whose tasks share by weights has them pass through `Sharing` modules, which
    `trainer.evaluation.gate_stats` watches for the report, and implements `fusion_names`. A module in it that
    multiplies matrices has a property `flops_per_row` (`models.cost`). Its config, a `HeadConfig` with the name of the
    head and its keys, implements `build`.
    """

    of_task: frozenset[str] = frozenset({"towers"})
    """Modules whose parts are numbered by task: NAME.TASK."""
    of_level_and_task: frozenset[str] = frozenset()
    """The same on every level: NAME.LEVEL.TASK."""
    of_all_tasks: frozenset[str] = frozenset()
    """Modules whose parameters have an entry for each task, so that they mean something for these tasks alone."""
    of_columns: frozenset[str] = frozenset()
    """Modules that read the input's columns, or write to them, other than by weights as wide as the input."""

    def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        parts = in_parts(features_BF)
        if len(parts) == 1:
            return self.logits(features_BF)
        return torch.cat([self.logits(rows_RF) for rows_RF in parts])

    @abstractmethod
    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT; rows are independent of each other."""

    def begin(self, samples: int, seed: int) -> None:
        """A training step begins at `samples`: noise is drawn from the seed of this step, the same on every rank."""

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Scalars that training adds to this rank's loss, by name, after `forward` on the same rows.

        weights_B: of the rows, 0 for padding. What is summed over rows is divided by B, as the losses are. TorchRec
        traces this with symbols in place of tensors, so it takes no len() of them and does not ask for their values.
        """
        return {}

    def branch_names(self, level: int, tasks: Sequence[str]) -> list[str]:  # noqa: ARG002
        """Names for the networks of `levels.LEVEL`, where each belongs to a group of tasks; else []."""
        return []

    def meet_at_trunk(self, gate: nn.Module) -> None:  # noqa: ARG002
        """Puts `gate` where all tasks read one trunk; raises ValueError if they read none."""
        raise ValueError("balance.at = 'trunk' takes a head with one trunk (shared_bottom, mrn); use 'features'")

    def fusion_weights(self, features_BF: torch.Tensor) -> list[torch.Tensor]:
        """For each `Sharing` weights_BUE, what every unit takes from every source; [] where nothing is weighed."""
        kept: list[list[torch.Tensor]] = []
        hooks = []
        for module in self.modules():
            if isinstance(module, Sharing):
                of_module: list[torch.Tensor] = []
                hooks.append(module.register_forward_hook(partial(_keep, of_module)))
                kept.append(of_module)
        try:
            self(features_BF)
        finally:
            for hook in hooks:
                hook.remove()
        return [torch.cat(of_module) for of_module in kept]

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:  # noqa: ARG002
        """Names for `fusion_weights`, level by level."""
        return []


def _keep(kept: list[torch.Tensor], module: Sharing, _inputs: Any, outputs: Any) -> None:
    kept.append(module.weights_of(outputs))


def in_parts(features_BF: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows that go through a head at once: on a CPU as many as its cache likes; all on a GPU, and in an exported
    model, whose batches have any size.
    """
    on_cpu = features_BF.device.type == "cpu" and not torch.compiler.is_exporting()
    return features_BF.split(ROWS_IN_CACHE) if on_cpu else (features_BF,)


def experts_per_task(task_experts: int | tuple[int, ...], num_tasks: int) -> list[int]:
    """The key `task_experts` as one number for each task; raises ValueError if it has another length."""
    if isinstance(task_experts, int):
        return [task_experts] * num_tasks
    if len(task_experts) != num_tasks:
        raise ValueError(
            f"model.task_experts = {list(task_experts)} must be one number, or one for each of {num_tasks} tasks"
        )

    return list(task_experts)
