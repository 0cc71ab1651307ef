"""Heads against LibMTL (Lin and Zhang, JMLR 2023), in float64 and with the same weights: logits and all gradients.

    pip install --no-deps LibMTL==1.1.5

Without it the tests are skipped. Its package imports a torchvision of 2021 to load ResNets, which no test needs: its
modules are imported one by one. Encoders are linear layers with ReLU under the names that it asks for.

Shapes: B rows, F features, T tasks.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from models.heads.base import Head, HeadConfig
from models.heads.cross_stitch import CrossStitchConfig
from models.heads.mmoe import MMoEConfig
from models.heads.ple import PLEConfig
from models.heads.related.dselect_k import DSelectKConfig
from models.heads.related.mtan import MTANConfig
from models.heads.shared_bottom import SharedBottomConfig

if find_spec("LibMTL") is None:
    pytest.skip("LibMTL is not installed: pip install --no-deps LibMTL==1.1.5", allow_module_level=True)

ROWS, FEATURES = 32, 7
Get = Callable[[torch.Tensor], torch.Tensor]
"""What is taken of each parameter: its values, or its gradient."""
Mapping = Callable[[Get], dict[str, torch.Tensor]]
"""A head's parameters by name, from those of LibMTL."""


@pytest.fixture(scope="module")
def architecture() -> Iterator[ModuleType]:
    """LibMTL.architecture."""
    spec = find_spec("LibMTL")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    before = set(sys.modules)
    for name, path in (("LibMTL", folder), ("LibMTL.model", folder / "model")):
        package = ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules["torchvision.models.utils"].load_state_dict_from_url = None  # type: ignore[attr-defined]
    yield import_module("LibMTL.architecture")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("LibMTL", "torchvision"):
            del sys.modules[name]


class Layer(nn.Sequential):
    """A linear layer with ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs), nn.ReLU())

    @property
    def linear(self) -> nn.Linear:
        (linear, _) = self
        assert isinstance(linear, nn.Linear)
        return linear


class Perceptron(nn.Sequential):
    """An encoder."""

    def __init__(self) -> None:
        super().__init__(Layer(FEATURES, 6), Layer(6, 5))


class ResNetOfLayers(nn.Module):
    """An encoder with the parts of a ResNet: stem and four layers."""

    widths = (FEATURES, 6, 5, 4, 4, 3)

    def __init__(self) -> None:
        super().__init__()
        stem, *layers = (Layer(*sizes) for sizes in pairwise(self.widths))
        self.conv1, self.relu = stem
        self.bn1, self.maxpool = nn.Identity(), nn.Identity()
        self.layer1, self.layer2, self.layer3, self.layer4 = layers


def build(kind: type[nn.Module], num_tasks: int, encoder: type[nn.Module], width: int, **options: Any) -> nn.Module:
    """A network of LibMTL with linear decoders; `width`: of its representations."""
    torch.manual_seed(5)
    tasks = [f"task {number}" for number in range(num_tasks)]
    decoders = nn.ModuleDict({task: nn.Sequential(nn.Flatten(), nn.Linear(width, 1)) for task in tasks})
    network = kind(tasks, encoder, decoders, False, False, torch.device("cpu"), img_size=[FEATURES], **options)
    return network.double().eval()  # in training, DSelect_k calls backward in its forward


def assert_alike(config: HeadConfig, theirs: nn.Module, mapping: Mapping, apart: tuple[str, ...] = ()) -> Head:
    """Logits, the gradient of the input and the gradients of all parameters but `apart`; returns the head."""
    tasks = list(theirs.task_name)  # type: ignore[arg-type]
    head = config.build(FEATURES, tasks).double().eval()
    state = mapping(torch.Tensor.detach)
    assert set(state) == {name for name, _ in head.named_parameters()}
    head.load_state_dict(state)

    x_BF = torch.randn(ROWS, FEATURES, dtype=torch.float64)
    weights_BT = torch.randn(ROWS, len(tasks), dtype=torch.float64)
    our_x, their_x = x_BF.clone().requires_grad_(), x_BF.clone().requires_grad_()
    ours_BT = head(our_x)
    outputs = theirs(their_x)
    theirs_BT = torch.cat([outputs[task] for task in tasks], dim=1)
    (ours_BT * weights_BT).sum().backward()
    (theirs_BT * weights_BT).sum().backward()

    pairs = {"logits": (ours_BT, theirs_BT), "input": (our_x.grad, their_x.grad)}
    gradients = mapping(lambda parameter: parameter.grad)  # type: ignore[arg-type, return-value]
    pairs |= {
        name: (parameter.grad, gradients[name]) for name, parameter in head.named_parameters() if name not in apart
    }
    for name, (our, their) in pairs.items():
        assert our is not None
        assert their.abs().max() > 0, name
        torch.testing.assert_close(our, their, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    return head


def stacked(name: str, layers: Iterable[nn.Module], get: Get) -> dict[str, torch.Tensor]:
    """Linear layers side by side, or convolutions of one pixel."""
    kept = list(layers)
    weights = torch.stack([get(layer.weight).flatten(1) for layer in kept])  # type: ignore[arg-type]
    biases = torch.stack([get(layer.bias) for layer in kept])  # type: ignore[arg-type]
    return {f"{name}.weight": weights, f"{name}.bias": biases}


def towers(network: nn.Module, get: Get) -> dict[str, torch.Tensor]:
    return stacked("towers.logit", [decoder[1] for decoder in network.decoders.values()], get)  # type: ignore[operator, union-attr]


def perceptrons(name: str, encoders: Iterable[Any], get: Get) -> dict[str, torch.Tensor]:
    kept = list(encoders)
    layers = [stacked(f"{name}.layers.{k}", [encoder[k].linear for encoder in kept], get) for k in range(2)]
    return layers[0] | layers[1]


def gates(name: str, chosen: Iterable[tuple[nn.Linear, list[int]]], get: Get) -> dict[str, torch.Tensor]:
    """Rows of gates, each in the order that a head has them."""
    kept = list(chosen)
    weights = torch.cat([get(gate.weight)[rows] for gate, rows in kept])
    biases = torch.cat([get(gate.bias)[rows] for gate, rows in kept])
    return {f"{name}.weight": weights[:, None], f"{name}.bias": biases[:, None]}


SIZES: dict[str, Any] = {"levels": ((6, 5),), "tower": ()}


def test_shared_bottom_is_hps(architecture: Any) -> None:
    network = build(architecture.HPS, 3, Perceptron, 5)
    assert_alike(
        SharedBottomConfig(**SIZES),
        network,
        lambda get: perceptrons("trunk", [network.encoder], get) | towers(network, get),
    )


def test_mmoe(architecture: Any) -> None:
    network = build(architecture.MMoE, 3, Perceptron, 5, num_experts=[4])
    own_gates: Any = [(gate[0], list(range(4))) for gate in network.gate_specific.values()]  # type: ignore[operator, union-attr]
    assert_alike(
        MMoEConfig(**SIZES, experts=4),
        network,
        lambda get: (
            perceptrons("levels.0.experts", network.experts_shared, get)  # type: ignore[arg-type]
            | gates("levels.0.gates", own_gates, get)
            | towers(network, get)
        ),
    )


def test_ple_of_one_level_is_cgc(architecture: Any) -> None:
    shared, of_tasks = 2, [1, 3, 2]
    network: Any = build(architecture.CGC, 3, Perceptron, 5, num_experts=[shared, *of_tasks])
    own = [expert for experts in network.experts_specific.values() for expert in experts]
    # Its gates weigh the shared experts first, ours a task's own.
    order = [[*range(shared, shared + count), *range(shared)] for count in of_tasks]
    own_gates = [(gate[0], rows) for gate, rows in zip(network.gate_specific.values(), order, strict=True)]
    assert_alike(
        PLEConfig(**SIZES, task_experts=tuple(of_tasks), shared_experts=shared),
        network,
        lambda get: (
            perceptrons("levels.0.experts", [*own, *network.experts_shared], get)
            | gates("levels.0.gates", own_gates, get)
            | towers(network, get)
        ),
    )


def test_ple_of_several_levels_and_one_task(architecture: Any) -> None:
    """LibMTL has no shared unit: shared experts read what a task has fused. With one task both fuse the same."""
    shared, own, widths = 2, 3, ResNetOfLayers.widths
    network: Any = build(architecture.PLE, 1, ResNetOfLayers, widths[-1], num_experts=[shared, own])
    (task,) = network.task_name
    rows = [*range(shared, shared + own), *range(shared)]

    def mapping(get: Get) -> dict[str, torch.Tensor]:
        state = towers(network, get)
        for level in range(5):
            experts = [*network.encoder.specific_layer[str(level)][task], *network.encoder.shared_layer[str(level)]]
            name = f"levels.{level}"
            state |= stacked(f"{name}.experts.layers.0", [expert[0] for expert in experts], get)
            gate = network.encoder.gate_specific[task][level][0]
            state |= gates(f"{name}.gates", [(gate, rows)] * (1 if level == 4 else 2), get)
        return state

    names = tuple(f"levels.{level}.gates.{part}" for level in range(4) for part in ("weight", "bias"))
    config = PLEConfig(
        levels=tuple((width,) for width in widths[1:]), tower=(), task_experts=own, shared_experts=shared
    )
    head = assert_alike(config, network, mapping, apart=names)
    of_ours = dict(head.named_parameters())
    of_theirs = mapping(lambda parameter: parameter.grad)  # type: ignore[arg-type, return-value]
    for name in names:  # one gate there, two with its weights here: their gradients add up to its
        gradient = of_ours[name].grad
        assert gradient is not None
        torch.testing.assert_close(sum(gradient.chunk(2)), of_theirs[name].chunk(2)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("experts", "k"), [(4, 2), (8, 1), (5, 3), (2, 2)])
def test_dselect_k(architecture: Any, experts: int, k: int) -> None:
    bits = (experts - 1).bit_length()
    network: Any = build(architecture.DSelect_k, 3, Perceptron, 5, num_experts=[experts], num_nonzeros=k, kgamma=1.0)
    # It makes its codes of texts, and today's NumPy takes "0" as true.
    numbers = torch.arange(experts)[:, None]
    network._binary_codes = (numbers >> torch.arange(bits).flip(0) & 1 == 1)[None]
    for codes in network._z_logits.values():
        nn.init.uniform_(codes.weight, -0.3, 0.3)  # on both sides of the smooth step's ends
    # Its bits come from the highest down, ours from the lowest up.
    rows = [selector * bits + bit for selector in range(k) for bit in reversed(range(bits))]
    all_selectors = list(range(k))
    assert_alike(
        DSelectKConfig(**SIZES, experts=experts, k=k),
        network,
        lambda get: (
            perceptrons("levels.0.experts", network.experts_shared, get)
            | gates("levels.0.codes", [(codes, rows) for codes in network._z_logits.values()], get)
            | gates("levels.0.gates", [(gate, all_selectors) for gate in network._w_logits.values()], get)
            | towers(network, get)
        ),
        apart=() if k > 1 else ("levels.0.gates.weight", "levels.0.gates.bias"),  # a softmax over one is 1
    )


def test_cross_stitch_with_equal_rows(architecture: Any) -> None:
    """LibMTL has one weight for each source: all tasks take the same mixture. And it does not mix the last level."""
    widths = ResNetOfLayers.widths
    network: Any = build(architecture.Cross_stitch, 3, ResNetOfLayers, widths[-1])
    nn.init.uniform_(network.encoder.cross_unit, -1, 1)

    def mapping(get: Get) -> dict[str, torch.Tensor]:
        encoder = network.encoder
        state = towers(network, get)
        state |= stacked("levels.0.layers.0", [stem[0] for stem in encoder.resnet_conv.values()], get)
        for level in range(4):
            layers = [layer.linear for layer in encoder.resnet_layer[str(level)]]
            state |= stacked(f"levels.{level}.layers.{0 if level else 1}", layers, get)
            state[f"stitches.{level}.weight"] = get(encoder.cross_unit)[level].expand(3, 3)
        state["stitches.3.weight"] = torch.eye(3, dtype=torch.float64)
        return state

    config = CrossStitchConfig(levels=(widths[1:3], *((width,) for width in widths[3:])), tower=())
    names = tuple(f"stitches.{level}.weight" for level in range(4))
    head = assert_alike(config, network, mapping, apart=names)
    stitches: Any = head.stitches
    for level in range(3):
        of_source = stitches[level].weight.grad.sum(dim=0)
        torch.testing.assert_close(of_source, network.encoder.cross_unit.grad[level], rtol=1e-10, atol=1e-12)


class Pixels(nn.Sequential):
    """A layer as convolution of one pixel."""

    def __init__(self, inputs: int, outputs: int, *, halves: bool = False) -> None:
        pool = [nn.AvgPool2d(2)] if halves else []
        super().__init__(*pool, nn.Conv2d(inputs, outputs, 1), nn.ReLU())


class ResNetOfPixels(nn.Module):
    """What LibMTL's MTAN takes as a ResNet: four layers of two blocks, with its widths."""

    widths = (64, 128, 256, 512)
    feature_dim = 512

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = (nn.Identity() for _ in range(4))
        for number, (inputs, width) in enumerate(pairwise((FEATURES, *self.widths)), start=1):
            blocks = nn.Sequential(Pixels(inputs, width, halves=number == 2), Pixels(width, width))
            self.add_module(f"layer{number}", blocks)


def test_mtan(architecture: Any) -> None:
    """On images of equal pixels, with batch normalisation that changes nothing, and F's block without its inner way."""
    widths = ResNetOfPixels.widths
    network: Any = build(architecture.MTAN, 2, ResNetOfPixels, widths[-1])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)  # type: ignore[union-attr]
            nn.init.uniform_(module.bias, -0.3, 0.3)
    for block in network.encoder.encoder_block_att:
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.bn2.bias)
    for of_level in network.encoder.encoder_att.values():
        for mask in of_level:  # the bias is that of the batch normalisation
            nn.init.zeros_(mask[0].bias)
            nn.init.zeros_(mask[3].bias)

    def mapping(get: Get) -> dict[str, torch.Tensor]:
        encoder = network.encoder
        state = towers(network, get)
        for level in range(4):
            (first,), last = encoder.shared_layer[str(level)]
            state |= stacked(f"trunk.{level}.layers.0", [first[-2]], get)
            state |= stacked(f"trunk.{level}.layers.1", [last[-2]], get)
            masks = encoder.encoder_att[str(level)]
            state |= stacked(f"inner.{level}.layers.0", [normalised(*mask[:2]) for mask in masks], get)
            state |= stacked(f"outer.{level}", [normalised(*mask[3:5]) for mask in masks], get)
            if level:
                block = encoder.encoder_block_att[level - 1]
                state |= stacked(f"carry.{level - 1}", [normalised(*block.downsample)], get)
        return state

    network.register_forward_pre_hook(lambda _, inputs: inputs[0][:, :, None, None].expand(-1, -1, 2, 2))
    config = MTANConfig(levels=tuple((width, width) for width in widths), tower=())
    assert_alike(config, network, mapping)


def normalised(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Any:
    """The layer that a convolution and its batch normalisation are: the weight of one, the bias of the other."""
    return SimpleNamespace(weight=conv.weight, bias=norm.bias)
