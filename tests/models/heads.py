"""What the tests of the heads share: random configs, heads beside their loop versions, losses and comparisons.

Shapes: B rows, F features, T tasks.
"""

from collections.abc import Callable
from typing import Any, get_args

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.loops import build_loop, share_noise
from models.heads import AnyHeadConfig
from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.base import Head, HeadConfig, experts_per_task
from models.heads.cross_stitch import CrossStitchConfig, Stitch
from models.heads.mmoe import MLMMoEConfig, MMoEConfig
from models.heads.ple import PLEConfig
from models.heads.related.adashare import AdaShareConfig
from models.heads.related.aitm import AITMConfig
from models.heads.related.branched import BranchedConfig
from models.heads.related.choices import Choices
from models.heads.related.dselect_k import DSelectKConfig
from models.heads.related.learning_to_branch import LearningToBranchConfig
from models.heads.related.mrn import MRNConfig
from models.heads.related.mtan import MTANConfig
from models.heads.related.pepnet import PEPNetConfig
from models.heads.related.sluice import LevelMixture, SluiceConfig
from models.heads.related.snr import Average, SNRConfig
from models.heads.related.soft_ordering import Order, SoftOrderingConfig
from models.heads.related.stem import STEMConfig
from models.heads.shared_bottom import SharedBottomConfig, SingleTaskConfig
from models.per_layer_state import State, per_module_gradients, per_module_state

ROWS, FEATURES = 5, 3
SAMPLES = 100
"""At which the step begins that heads are built for."""
HEADS: tuple[type[HeadConfig], ...] = get_args(get_args(AnyHeadConfig)[0])
GATED = (MMoEConfig, MLMMoEConfig, PLEConfig, AdaTTSpConfig, AdaTTConfig)
Case = tuple[HeadConfig, int]
"""A config and the number of tasks."""

many = settings(max_examples=25)
few = settings(many, max_examples=10)

widths = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
levels = st.lists(widths, min_size=1, max_size=5).map(tuple)
towers = st.lists(st.integers(1, 4), max_size=2).map(tuple)
num_tasks = st.integers(1, 8)

LEVELS = ((4, 3), (3,))
TREE = ((("task 1",), ("task 2", "task 0")), (("task 1",), ("task 2",), ("task 0",)))
FIXED: tuple[Case, ...] = (
    (SharedBottomConfig(levels=LEVELS, tower=(2,)), 3),
    (SingleTaskConfig(levels=LEVELS, tower=(2,)), 3),
    (MMoEConfig(levels=LEVELS, tower=(2,), experts=3), 3),
    (MLMMoEConfig(levels=LEVELS, tower=(2,), experts=3), 2),
    (PLEConfig(levels=LEVELS, tower=(2,), task_experts=(1, 2, 1), shared_experts=2), 3),
    (CrossStitchConfig(levels=LEVELS, tower=(2,)), 3),
    (AdaTTSpConfig(levels=LEVELS, tower=(2,), task_experts=(1, 2, 1)), 3),
    (AdaTTConfig(levels=LEVELS, tower=(2,), task_experts=(2, 1, 1), shared_experts=2), 3),
    (MTANConfig(levels=LEVELS, tower=(2,)), 3),
    (SoftOrderingConfig(levels=((3, 3), (3,)), tower=(2,)), 3),
    (SluiceConfig(levels=((3, 4), (4,)), tower=(2,)), 3),
    (SNRConfig(levels=LEVELS, tower=(2,), experts=3), 2),
    (DSelectKConfig(levels=LEVELS, tower=(2,), experts=3), 3),
    (AITMConfig(levels=LEVELS, tower=(2,), chain=("task 2", "task 0")), 3),
    (AdaShareConfig(levels=((4, 3), (3,)), tower=(2,), warmup_samples=0, block_samples=0), 3),
    (LearningToBranchConfig(levels=LEVELS, tower=(2,), experts=3, warmup_samples=0), 2),
    (PEPNetConfig(levels=LEVELS, tower=(2,), gate_width=3, gate_features=("feature 2", "feature 0")), 3),
    (STEMConfig(levels=LEVELS, tower=(2,), task_experts=(1, 2), shared_experts=2), 2),
    (BranchedConfig(levels=LEVELS, tower=(2,), tree=TREE), 3),
    (MRNConfig(levels=LEVELS, tower=(2,), prior_samples=SAMPLES), 3),
)
"""One config for each head, with all that it has."""
EDGES: tuple[Case, ...] = (
    *((kind(levels=((2,),), tower=()), 1) for kind in HEADS),
    (AdaTTConfig(levels=LEVELS, task_experts=1, shared_experts=1, tower=()), 2),
    (AdaTTConfig(levels=LEVELS, task_experts=1, shared_experts=3), 2),
    (AdaTTConfig(levels=((2,),), task_experts=1, shared_experts=3), 1),
    (AdaTTConfig(levels=LEVELS, task_experts=(1, 2, 1, 3), native_fusion=False), 4),
    (AdaTTConfig(levels=((4, 2), (3, 2), (2,)), task_experts=(1, 2, 1, 3), shared_experts=3), 4),
    (AdaTTSpConfig(levels=LEVELS, task_experts=(1, 2, 1, 3), tower=(3, 2)), 4),
    (AdaTTSpConfig(levels=((4, 2), (3, 2), (2,)), task_experts=(3, 3, 1, 1, 2, 2), tower=(2,)), 6),
    (PLEConfig(levels=LEVELS, task_experts=(1, 2, 1, 3), shared_experts=1), 4),
    (PLEConfig(levels=LEVELS, task_experts=1, shared_experts=1), 2),
    (PLEConfig(levels=((4, 3),), task_experts=2, shared_experts=2), 2),
    (PLEConfig(levels=LEVELS, task_experts=2, shared_experts=0), 3),
    (MMoEConfig(levels=LEVELS, experts=1), 2),
    (MLMMoEConfig(levels=LEVELS, experts=1), 2),
    (MLMMoEConfig(levels=((2,), (3, 2), (2,)), experts=2), 5),
    (MTANConfig(levels=((2,), (3, 2), (2,)), tower=()), 2),
    (SNRConfig(levels=((2,), (3, 2), (2,)), experts=2, routes="average"), 5),
    (SNRConfig(levels=LEVELS, experts=1), 2),
    (DSelectKConfig(levels=LEVELS, experts=8, k=3), 2),
    (DSelectKConfig(levels=LEVELS, experts=5, k=1, gamma=0.5), 2),
    (AITMConfig(levels=LEVELS), 4),
    (AITMConfig(levels=LEVELS, chain=("task 1",)), 2),
    (AdaShareConfig(levels=((2,), (3, 2), (2,)), warmup_samples=0, block_samples=SAMPLES), 2),
    (AdaShareConfig(levels=((2,), (2,)), warmup_samples=0, block_samples=0, sampling="hard"), 3),
    (LearningToBranchConfig(levels=((2,), (3, 2), (2,)), experts=2, warmup_samples=0, sampling="hard"), 5),
    (LearningToBranchConfig(levels=LEVELS, experts=1, warmup_samples=0), 2),
    (PEPNetConfig(levels=LEVELS, gate_features=("feature 1",)), 2),
    (STEMConfig(levels=LEVELS, task_experts=2, shared_experts=3), 1),
    (STEMConfig(levels=LEVELS, task_experts=1, shared_experts=1), 4),
    (STEMConfig(levels=LEVELS, task_experts=(2, 1), shared_experts=0), 2),
    (BranchedConfig(levels=LEVELS), 3),
    (MRNConfig(levels=LEVELS, tower=(4, 3), prior_samples=2 * SAMPLES), 2),
    (MRNConfig(levels=LEVELS, tower=(2,), prior_samples=SAMPLES, covariances="tasks"), 4),
    (BranchedConfig(levels=LEVELS, tower=(), tree=((("task 1", "task 0"),),) * 2), 2),
)


def ids(value: object) -> str:
    """For parametrize."""
    if isinstance(value, tuple) and isinstance(value[0], HeadConfig):
        return ids(value[0])
    return str(value.model_fields["head"].default) if isinstance(value, type) else str(getattr(value, "head", value))


def names(tasks: int) -> list[str]:
    """Of so many tasks."""
    return [f"task {number}" for number in range(tasks)]


@st.composite
def cases(draw: st.DrawFn, kind: type[HeadConfig]) -> Case:
    """Any config of a head."""
    tasks = draw(num_tasks)
    each = st.lists(st.integers(1, 3), min_size=tasks, max_size=tasks).map(tuple)
    keys: dict[str, st.SearchStrategy[Any]] = {
        "experts": st.integers(1, 4),
        "task_experts": st.integers(1, 3) | each,
        "shared_experts": st.integers(0, 3),
        "native_fusion": st.booleans(),
        "routes": st.sampled_from(["transform", "average"]),
        "k": st.integers(1, 3),
        "sampling": st.sampled_from(["soft", "hard"]),
        "warmup_samples": st.integers(0, SAMPLES + 1),
        "halving_samples": st.integers(SAMPLES // 3, SAMPLES),
        "lowest_temperature": st.floats(0.5, 5),
        "block_samples": st.integers(0, SAMPLES),
        "chain": st.permutations(names(tasks)).flatmap(lambda order: st.integers(0, tasks).map(lambda n: order[:n])),
        "gate_features": st.lists(st.sampled_from([f"feature {n}" for n in range(FEATURES)]), unique=True).map(tuple),
        "gate_width": st.integers(1, 4),
        "prior_samples": st.integers(1, 2 * SAMPLES),
        "covariances": st.sampled_from(["all", "tasks"]),
    }
    values = {key: draw(strategy) for key, strategy in keys.items() if key in kind.model_fields}
    if kind is BranchedConfig:
        shape = draw(levels)
        return kind(levels=shape, tower=draw(towers), tree=draw(trees(names(tasks), len(shape)))), tasks
    if kind is DSelectKConfig:
        values["experts"] += 1
    return kind(levels=fitting(kind, draw(levels)), tower=draw(towers), **values), tasks


@st.composite
def trees(draw: st.DrawFn, tasks: list[str], depth: int) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Any tree: groups in any order, of tasks in any order."""
    groups = [tasks]
    tree = []
    for _ in range(depth):
        parted: list[list[str]] = []
        for group in groups:
            branch = [draw(st.integers(0, 2)) for _ in group]
            parts = [[name for name, at in zip(group, branch, strict=True) if at == number] for number in range(3)]
            parted += [draw(st.permutations(part)) for part in parts if part]
        groups = draw(st.permutations(parted))
        tree.append(tuple(map(tuple, groups)))
    return tuple(tree)


def fitting(kind: type[HeadConfig], levels: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """The levels, in widths that the head can have."""
    width = levels[0][0]
    if kind is SoftOrderingConfig:
        return tuple((width,) * len(layers) for layers in levels)
    if kind is AdaShareConfig:
        return tuple((*layers[:-1], width) for layers in levels)
    if kind is SluiceConfig:
        return tuple((*layers[:-1], width + width % 2) for layers in levels)
    return levels


def build(config: HeadConfig, tasks: int, seed: int = 0) -> Head:
    """A head in float64, with noise of a step; stitches and the like, which start alike, are random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = config.build(FEATURES, names(tasks)).double()
        for module in head.modules():
            if isinstance(module, Stitch | LevelMixture):
                nn.init.uniform_(module.weight, -1, 1)
            if isinstance(module, Order):
                nn.init.uniform_(module.scores, -1, 1)
            if isinstance(module, Average):
                nn.init.uniform_(module.log_alpha_UE, -0.1, 0.1)
            if isinstance(module, Choices):
                nn.init.uniform_(module.slow_scores, -0.1, 0.1)
        head.begin(SAMPLES, seed=0)
    return head


def build_pair(config: HeadConfig, tasks: int) -> tuple[Head, nn.Module]:
    """A head, and its loop version with the same weights."""
    head, loop = build(config, tasks), build_loop(config, FEATURES, tasks).double()
    loop.load_state_dict(per_module_state(head))
    share_noise(head, loop)
    return head, loop


def units_of_experts(config: HeadConfig, tasks: int) -> list[int]:
    """The unit that each expert of a level belongs to; the shared one comes after the tasks."""
    if isinstance(config, MMoEConfig | MLMMoEConfig):
        return list(range(config.experts))
    assert isinstance(config, AdaTTSpConfig | AdaTTConfig | PLEConfig)
    counts = [*experts_per_task(config.task_experts, tasks), getattr(config, "shared_experts", 0)]
    return [unit for unit, count in enumerate(counts) for _ in range(count)]


def draw_input(rows: int = ROWS, features: int = FEATURES) -> torch.Tensor:
    """x_BF: float64, requires a gradient."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, features, dtype=torch.float64, generator=generator).requires_grad_()


def weighted(logits_BT: torch.Tensor) -> torch.Tensor:
    """A loss that weighs every logit differently."""
    weight_BT = torch.arange(1, logits_BT.numel() + 1, dtype=logits_BT.dtype).view(logits_BT.shape).cos()
    return (logits_BT * weight_BT).sum()


def backward(forward: Callable[[torch.Tensor], torch.Tensor], rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the loss's gradient with respect to the input."""
    x_BF = draw_input(rows)
    logits_BT = forward(x_BF)
    weighted(logits_BT).backward()
    assert x_BF.grad is not None
    return logits_BT.detach(), x_BF.grad


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def assert_same(found: State, expected: State) -> None:
    """Same names, same tensors up to rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_equal_loop(
    config: HeadConfig, tasks: int, rows: int = ROWS, compiled: Callable[[Head], Callable[..., Any]] = lambda head: head
) -> None:
    """Names, values, input gradient and every parameter's gradient."""
    head, loop = build_pair(config, tasks)
    assert per_module_state(head).keys() == {name for name, _ in loop.named_parameters()}
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in loop.parameters())
    logits_BT, input_gradient = backward(compiled(head), rows)
    loop_logits_BT, loop_input_gradient = backward(loop, rows)
    assert logits_BT.shape == (rows, tasks)
    assert_close(logits_BT, loop_logits_BT)
    assert_close(input_gradient, loop_input_gradient)
    gradients = {name: parameter.grad for name, parameter in loop.named_parameters() if parameter.grad is not None}
    assert len(gradients) == len(list(loop.parameters()))
    assert_same(per_module_gradients(head), gradients)
