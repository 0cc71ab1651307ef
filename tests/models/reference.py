"""The heads in their simplest form: one module for each expert, gate and tower, loops over them, float64.

Written from the definitions (Li et al., KDD 2023, section 3), with no thought of speed; `models.heads` must equal it in
values and gradients. `load` copies a head's weights into the loop; `gradient_pairs` puts gradients side by side.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from models.heads.adatt import AdaTT, AdaTTSpConfig, FusionLevel
from models.heads.layers import GroupedLinear, GroupedMLP, Towers
from models.heads.shared_bottom import SharedBottom, SharedBottomConfig


def perceptron(widths: tuple[int, ...], *, last_is_linear: bool) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*(parts[:-1] if last_is_linear else parts)).double()


class LoopLevel(nn.Module):
    """E_{u,i}, G_u and v_u of every unit; f_u' = Σ_j G_{u,j} E_j + Σ_i v_{u,i} E_{u,i} for the units that fuse."""

    def __init__(self, counts: list[int], fusing: int, inputs: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.ModuleList(perceptron((inputs, *layers), last_is_linear=False) for _ in range(count)) for count in counts
        )
        self.gates = nn.ModuleList(nn.Linear(inputs, sum(counts)).double() for _ in range(fusing))
        learned = any(count > 1 for count in counts)
        self.native = nn.ParameterList(torch.ones(count).double() for count in counts[:fusing] if learned)

    def forward(self, units: list[torch.Tensor]) -> list[torch.Tensor]:
        outputs = [[expert(x) for expert in own] for own, x in zip(self.experts, units, strict=True)]
        everyone = [expert for own in outputs for expert in own]
        fused = []
        for unit, gate in enumerate(self.gates):
            shares = torch.softmax(gate(units[unit]), dim=1)
            total = sum(shares[:, [place]] * expert for place, expert in enumerate(everyone))
            for place, expert in enumerate(outputs[unit]):
                total = total + (self.native[unit][place] * expert if len(self.native) else expert)
            fused.append(total)
        return fused


class LoopAdaTT(nn.Module):
    """Both forms: the shared unit, where there is one, is the last; it does not fuse on the last level."""

    def __init__(self, config: AdaTTSpConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        counts = [config.task_experts] * num_tasks
        if not isinstance(config.task_experts, int):
            counts = list(config.task_experts)
        shared = getattr(config, "shared_experts", 0)
        counts += [shared] if shared else []
        self.num_units = len(counts)
        self.levels = nn.ModuleList()
        inputs = num_features
        for index, layers in enumerate(config.levels):
            is_last = index + 1 == len(config.levels)
            self.levels.append(LoopLevel(counts, num_tasks if is_last else len(counts), inputs, layers))
            inputs = layers[-1]
        self.towers = loop_towers(num_tasks, inputs, config.tower)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        units = [x] * self.num_units
        for level in self.levels:
            units = level(units)
        return torch.cat([tower(unit) for tower, unit in zip(self.towers, units, strict=True)], dim=1)


class LoopSharedBottom(nn.Module):
    """One trunk; every tower reads it."""

    def __init__(self, config: SharedBottomConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        widths = (num_features, *itertools.chain(*config.levels))
        self.trunk = perceptron(widths, last_is_linear=False)
        self.towers = loop_towers(num_tasks, widths[-1], config.tower)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trunk = self.trunk(x)
        return torch.cat([tower(trunk) for tower in self.towers], dim=1)


def loop_towers(num_tasks: int, inputs: int, hidden: tuple[int, ...]) -> nn.ModuleList:
    return nn.ModuleList(perceptron((inputs, *hidden, 1), last_is_linear=True) for _ in range(num_tasks))


LoopHead = LoopAdaTT | LoopSharedBottom
Pair = tuple[torch.Tensor, torch.Tensor]
"""A loop's parameter, and the part of a head's tensor that is the same weights."""


def load(loop: LoopHead, head: nn.Module) -> None:
    """Copies the head's weights into the loop."""
    parameters = {name: parameter.detach() for name, parameter in head.named_parameters()}
    with torch.no_grad():
        for ours, theirs in pairs(loop, head, parameters):
            ours.copy_(theirs)


def gradient_pairs(loop: LoopHead, head: nn.Module) -> Iterator[Pair]:
    """The gradients of the same weights, after a backward of both; every weight of the loop once."""
    gradients = {name: parameter.grad for name, parameter in head.named_parameters() if parameter.grad is not None}
    for ours, theirs in pairs(loop, head, gradients):
        assert ours.grad is not None
        yield ours.grad, theirs


def pairs(loop: LoopHead, head: nn.Module, tensors: dict[str, torch.Tensor]) -> Iterator[Pair]:
    """Every parameter of the loop with its part of the head's `tensors`."""
    weights = _Weights(head, tensors)
    if isinstance(loop, LoopSharedBottom):
        assert isinstance(head, SharedBottom)
        yield from weights.perceptron(loop.trunk, head.trunk, 0)
    else:
        assert isinstance(head, AdaTT)
        for one, many in zip(loop.levels, head.levels, strict=True):
            yield from weights.level(one, many)
    yield from weights.towers(loop.towers, head.towers)


class _Weights:
    def __init__(self, head: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        self._names = {module: name for name, module in head.named_modules()}
        self._tensors = tensors

    def level(self, one: LoopLevel, many: FusionLevel) -> Iterator[Pair]:
        places = columns_of_experts(many)
        for own, columns in zip(one.experts, places, strict=True):
            for expert, column in zip(own, columns, strict=True):
                yield from self.perceptron(expert, *group_of_column(many, column))
        in_our_order = list(itertools.chain(*places))
        for unit, gate in enumerate(one.gates):
            weight, bias = self._linear(many.gate, unit)
            yield gate.weight, weight[in_our_order]
            yield gate.bias, bias[in_our_order]
        fusing = sorted(column for columns in places[: many.fusing] for column in columns)
        for native, columns in zip(one.native, places, strict=False):
            yield native, self._tensor(many, "native")[[fusing.index(column) for column in columns]]

    def towers(self, ones: nn.ModuleList, many: Towers) -> Iterator[Pair]:
        for task, one in enumerate(ones):
            yield from self.perceptron(one[:-1], many.hidden, task)
            yield from zip((one[-1].weight, one[-1].bias), self._linear(many.logit, task), strict=True)

    def perceptron(self, one: nn.Sequential, many: GroupedMLP, group: int) -> Iterator[Pair]:
        ones = [part for part in one if isinstance(part, nn.Linear)]
        for layer, layers in zip(ones, many.layers, strict=True):
            yield from zip((layer.weight, layer.bias), self._linear(layers, group), strict=True)

    def _linear(self, many: GroupedLinear, group: int) -> Pair:
        weight = self._tensor(many, "weight")
        return (weight[:, group] if many.common_input else weight[group]).T, self._tensor(many, "bias")[group]

    def _tensor(self, module: nn.Module, name: str) -> torch.Tensor:
        return self._tensors[f"{self._names[module]}.{name}"]


def columns_of_experts(level: FusionLevel) -> list[list[int]]:
    """For each unit the columns of its experts in the head's tensors."""
    units = range(len(level.experts_per_unit))
    return [[column for column, owner in enumerate(level.unit_of_expert) if owner == unit] for unit in units]


def group_of_column(level: FusionLevel, column: int) -> tuple[GroupedMLP, int]:
    """The perceptrons that hold the expert of a column, and its place among them."""
    for experts in level.experts:
        groups = experts.layers[0].groups
        if column < groups:
            return experts, column
        column -= groups
    raise AssertionError(column)
