"""Every head in its plainest form: a `torch.nn.Linear` for each layer of each expert, gate and tower, and loops.

What the batched heads are compared with: in values and gradients (tests/models/test_heads.py) and in speed
(`adatt bench heads`). Written from the papers' definitions as published implementations are: experts one after another,
their outputs stacked, one product with the stack for each gate. Parameters have the names that
`models.per_layer_state.per_module_state` gives, so its result loads as it is. ReLU only, no dropout.

Shapes: B rows, F features, I input width, H width of the level, T tasks.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.base import HeadConfig, experts_per_task
from models.heads.cross_stitch import CrossStitchConfig
from models.heads.mmoe import MLMMoEConfig, MMoEConfig
from models.heads.ple import PLEConfig
from models.heads.shared_bottom import SharedBottomConfig, SingleTaskConfig


def build_loop(config: HeadConfig, num_features: int, num_tasks: int) -> nn.Module:
    """The loop version of a head."""
    sizes = (num_features, num_tasks)
    match config:
        case SharedBottomConfig():
            return TrunkLoop(config, *sizes, num_trunks=1)
        case SingleTaskConfig():
            return TrunkLoop(config, *sizes, num_trunks=num_tasks)
        case CrossStitchConfig():
            return CrossStitchLoop(config, *sizes)
        case MMoEConfig():
            return MMoELoop(config, *sizes, config.experts, [config.end_to_end])
        case MLMMoEConfig():
            return MMoELoop(config, *sizes, config.experts, config.levels)
        case PLEConfig():
            return PLELoop(config, *sizes, config.shared_experts)
        case AdaTTConfig():
            return AdaTTLoop(config, *sizes, config.shared_experts)
        case AdaTTSpConfig():
            return AdaTTLoop(config, *sizes, shared_experts=0)

    raise AssertionError(config)


class Perceptron(nn.ModuleList):
    """Linear layers with a ReLU after each; a tower's last has none."""

    def __init__(self, inputs: int, layers: Sequence[int], is_tower: bool = False) -> None:
        widths = [inputs, *layers]
        super().__init__(nn.Linear(width_in, width_out) for width_in, width_out in pairwise(widths))
        self.is_tower = is_tower

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x_BI → y_BH."""
        for index, layer in enumerate(self):
            x = layer(x)
            if not (self.is_tower and index + 1 == len(self)):
                x = torch.relu(x)
        return x


class TowersLoop(nn.ModuleList):
    """A tower for each task."""

    def __init__(self, config: HeadConfig, num_tasks: int, inputs: int) -> None:
        layers = [*config.tower, 1]
        super().__init__(Perceptron(inputs, layers, is_tower=True) for _ in range(num_tasks))

    def forward(self, of_tasks: list[torch.Tensor]) -> torch.Tensor:
        """logits_BT."""
        return torch.cat([tower(x) for tower, x in zip(self, of_tasks, strict=True)], dim=1)


def weighted_sum(weights_BE: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
    """Σ_e weights[:, e] · experts[e]."""
    stacked_BEH = torch.stack(experts, dim=1)
    return torch.bmm(weights_BE.unsqueeze(1), stacked_BEH).squeeze(1)


class Level(nn.Module):
    """Experts, and the gates that fuse them."""

    def __init__(self, experts: list[Perceptron], gates: list[nn.Linear]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gates = nn.ModuleList(gates)
        self.native: nn.ParameterList | None = None


class StitchLoop(nn.Module):
    """A cross-stitch unit's matrix."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(num_tasks))


class TrunkLoop(nn.Module):
    """shared_bottom: one trunk; single_task: one for each task."""

    def __init__(self, config: HeadConfig, num_features: int, num_tasks: int, num_trunks: int) -> None:
        super().__init__()
        layers = [width for level in config.levels for width in level]
        self.trunk = nn.ModuleList(Perceptron(num_features, layers) for _ in range(num_trunks))
        self.towers = TowersLoop(config, num_tasks, layers[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        trunks = [trunk(x) for trunk in self.trunk]
        if len(trunks) == 1:
            trunks *= len(self.towers)
        return self.towers(trunks)


def _mixed(weight_T: torch.Tensor, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
    """Σ_s α_s h_s, in the order of the tasks."""
    total = weight_T[0] * hidden[0]
    for weight, of_task in zip(weight_T[1:], hidden[1:], strict=True):
        total = total + weight * of_task
    return total


class CrossStitchLoop(nn.Module):
    """cross_stitch."""

    def __init__(self, config: HeadConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        self.stitches = nn.ModuleList()
        inputs = num_features

        for layers in config.levels:
            self.levels.append(nn.ModuleList(Perceptron(inputs, layers) for _ in range(num_tasks)))
            self.stitches.append(StitchLoop(num_tasks))
            inputs = layers[-1]

        self.towers = TowersLoop(config, num_tasks, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        of_tasks = [x] * len(self.towers)
        for level, stitch in zip(self.levels, self.stitches, strict=True):
            assert isinstance(level, nn.ModuleList)
            assert isinstance(stitch, StitchLoop)
            hidden = [network(one) for network, one in zip(level, of_tasks, strict=True)]
            of_tasks = [_mixed(row, hidden) for row in stitch.weight]

        return self.towers(of_tasks)


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
