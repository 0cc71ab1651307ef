"""Experts and gates: mmoe, ml_mmoe, ple, adatt_sp and adatt.

Shapes: B rows, F features, E experts, T tasks.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.loops.parts import Perceptron, TowersLoop, weighted_sum
from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.base import HeadConfig, experts_per_task
from models.heads.ple import PLEConfig


class Level(nn.Module):
    """Experts, and the gates that fuse them."""

    def __init__(self, experts: list[Perceptron], gates: list[nn.Linear]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gates = nn.ModuleList(gates)
        self.native: nn.ParameterList | None = None


class MMoELoop(nn.Module):
    """mmoe (one level, all layers) and ml_mmoe: every gate reads x."""

    def __init__(
        self, config: HeadConfig, num_features: int, num_tasks: int, experts: int, levels: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        self.num_experts = experts
        inputs = num_features

        for index, layers in enumerate(levels):
            fused = num_tasks if index + 1 == len(levels) else experts
            networks = [Perceptron(inputs, layers) for _ in range(experts)]
            gates = [nn.Linear(num_features, experts) for _ in range(fused)]
            self.levels.append(Level(networks, gates))
            inputs = layers[-1]

        self.towers = TowersLoop(config, num_tasks, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_experts = [x] * self.num_experts
        for level in self.levels:
            assert isinstance(level, Level)
            outputs = [expert(one) for expert, one in zip(level.experts, of_experts, strict=True)]
            of_experts = [weighted_sum(torch.softmax(gate(x), dim=1), outputs) for gate in level.gates]
        return self.towers(of_experts)


class UnitLoop(nn.Module):
    """What AdaTT and PLE share: units with experts of their own, the shared ones last; gates on the unit's input."""

    def __init__(
        self, config: AdaTTSpConfig | AdaTTConfig | PLEConfig, num_features: int, num_tasks: int, shared_experts: int
    ) -> None:
        super().__init__()
        counts = experts_per_task(config.task_experts, num_tasks) + ([shared_experts] if shared_experts else [])
        self.levels = nn.ModuleList()
        inputs = num_features

        for index, layers in enumerate(config.levels):
            fusing = num_tasks if index + 1 == len(config.levels) else len(counts)
            experts = [Perceptron(inputs, layers) for _ in range(sum(counts))]
            seen = [len(self.seen(unit, counts, num_tasks)) for unit in range(fusing)]
            self.levels.append(Level(experts, [nn.Linear(inputs, count) for count in seen]))
            inputs = layers[-1]

        self.counts = counts
        self.num_tasks = num_tasks
        self.towers = TowersLoop(config, num_tasks, inputs)

    def own(self, unit: int, counts: list[int]) -> list[int]:
        """A unit's experts."""
        first = sum(counts[:unit])
        return list(range(first, first + counts[unit]))

    @abstractmethod
    def seen(self, unit: int, counts: list[int], num_tasks: int) -> list[int]:
        """The experts that a unit's gate weighs."""

    def native(self, level: Level, unit: int, own: list[torch.Tensor]) -> torch.Tensor | None:  # noqa: ARG002
        """What a unit adds of its own experts."""
        return None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_units = [x] * len(self.counts)
        for level in self.levels:
            assert isinstance(level, Level)
            outputs: list[torch.Tensor] = []
            for unit, one in enumerate(of_units):
                outputs += [level.experts[expert](one) for expert in self.own(unit, self.counts)]
            fused = []
            for unit, gate in enumerate(level.gates):
                seen = [outputs[expert] for expert in self.seen(unit, self.counts, self.num_tasks)]
                mixed = weighted_sum(torch.softmax(gate(of_units[unit]), dim=1), seen)
                own = [outputs[expert] for expert in self.own(unit, self.counts)]
                native = self.native(level, unit, own)
                fused.append(mixed if native is None else mixed + native)

            of_units = fused

        return self.towers(of_units)


class PLELoop(UnitLoop):
    """ple: a task's gate sees its own and the shared experts, the shared gate all."""

    def seen(self, unit: int, counts: list[int], num_tasks: int) -> list[int]:
        """The experts that a unit's gate weighs."""
        if unit == num_tasks:
            return list(range(sum(counts)))
        shared = range(sum(counts[:num_tasks]), sum(counts))
        return [*self.own(unit, counts), *shared]


class AdaTTLoop(UnitLoop):
    """adatt and adatt_sp: every gate sees all experts; native experts are added once more."""

    def __init__(
        self, config: AdaTTSpConfig | AdaTTConfig, num_features: int, num_tasks: int, shared_experts: int
    ) -> None:
        super().__init__(config, num_features, num_tasks, shared_experts)
        self.has_native = config.native_fusion
        if self.has_native and max(self.counts) > 1:
            for level in self.levels:
                assert isinstance(level, Level)
                counts = self.counts[: len(level.gates)]
                level.native = nn.ParameterList(torch.ones(count) for count in counts)

    def seen(self, unit: int, counts: list[int], num_tasks: int) -> list[int]:  # noqa: ARG002
        """The experts that a unit's gate weighs."""
        return list(range(sum(counts)))

    def native(self, level: Level, unit: int, own: list[torch.Tensor]) -> torch.Tensor | None:
        """v · own experts, or the only one."""
        if not self.has_native:
            return None
        if level.native is None:
            return own[0]
        return torch.matmul(level.native[unit], torch.stack(own, dim=1))
