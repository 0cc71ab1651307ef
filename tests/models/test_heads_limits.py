"""Where one head is another: limits that hold exactly; and that every parameter is used.

Shapes: B rows, F features, T tasks, E experts, H expert width.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.base import Head, HeadConfig
from models.heads.cross_stitch import CrossStitchConfig, Stitch
from models.heads.gated import FusionLevel
from models.heads.mmoe import MLMMoEConfig, MMoEConfig
from models.heads.ple import PLEConfig
from models.heads.related.adashare import AdaShare
from models.heads.related.aitm import Attention
from models.heads.related.branched import BranchedConfig
from models.heads.related.choices import Choices
from models.heads.related.dselect_k import Codes, DSelectK
from models.heads.related.learning_to_branch import Branching, LearningToBranch
from models.heads.related.snr import Average
from models.heads.related.soft_ordering import SoftOrdering
from models.heads.shared_bottom import SharedBottomConfig, SingleTaskConfig
from models.named_parts import named_parts
from models.per_layer_state import State, load_per_module_state, per_module_gradients, per_module_state
from tests.models.heads import (
    EDGES,
    FIXED,
    HEADS,
    LEVELS,
    Case,
    assert_close,
    backward,
    build,
    cases,
    draw_input,
    few,
    ids,
    levels,
    many,
    names,
    num_tasks,
    towers,
    weighted,
    widths,
)

Levels = tuple[tuple[int, ...], ...]


def assert_equal_heads(first: Head, second: Head) -> None:
    """Names, weights, values and gradients, to the bit."""
    for found, expected in zip(backward(first), backward(second), strict=True):
        assert torch.equal(found, expected)
    for state in (per_module_state, per_module_gradients):
        ours, theirs = state(first), state(second)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@few
@given(levels, towers, num_tasks, st.integers(1, 3), st.booleans())
def test_adatt_without_shared_experts_is_adatt_sp(
    levels: Levels, tower: tuple[int, ...], tasks: int, experts: int, native: bool
) -> None:
    keys = {"levels": levels, "tower": tower, "task_experts": experts, "native_fusion": native}
    assert_equal_heads(build(AdaTTConfig(**keys, shared_experts=0), tasks), build(AdaTTSpConfig(**keys), tasks))


@few
@given(widths, towers, num_tasks, st.integers(1, 4))
def test_ml_mmoe_of_one_level_is_mmoe(
    layers: tuple[int, ...], tower: tuple[int, ...], tasks: int, experts: int
) -> None:
    keys = {"levels": (layers,), "tower": tower, "experts": experts}
    assert_equal_heads(build(MLMMoEConfig(**keys), tasks), build(MMoEConfig(**keys), tasks))


@pytest.mark.parametrize("kind", [SharedBottomConfig, SingleTaskConfig, MMoEConfig], ids=ids)
def test_heads_without_fusion_between_levels_lay_them_end_to_end(kind: type[HeadConfig]) -> None:
    assert_equal_heads(build(kind(levels=((4, 3), (2,))), 3), build(kind(levels=((4,), (3,), (2,))), 3))


def test_with_one_task_shared_bottom_is_single_task() -> None:
    assert_equal_heads(build(SharedBottomConfig(levels=LEVELS), 1), build(SingleTaskConfig(levels=LEVELS), 1))


# ---- limits with other names


def as_trunks(state: State, level_lengths: list[int], infix: str = "") -> State:
    """`levels.LEVEL.TASK.LAYER` → `trunk.TASK.LAYER`, layers numbered through; no gates, no stitches."""
    found = {}
    for name, tensor in state.items():
        kind, *parts = name.replace(infix, "").split(".")
        if kind == "levels" and "gates" not in parts:
            level, task, layer, leaf = parts
            name = f"trunk.{task}.{sum(level_lengths[: int(level)]) + int(layer)}.{leaf}"
        if kind != "stitches" and "gates" not in parts:
            found[name] = tensor
    return found


def single_task_like(head: Head, levels: Levels, tower: tuple[int, ...], tasks: int, infix: str = "") -> Head:
    """The single-task head with the weights of another head's experts and towers."""
    single = build(SingleTaskConfig(levels=levels, tower=tower), tasks, seed=7)
    load_per_module_state(single, as_trunks(per_module_state(head), list(map(len, levels)), infix))
    return single


@few
@given(levels, towers, num_tasks)
def test_cross_stitch_with_identity_stitches_is_single_task(levels: Levels, tower: tuple[int, ...], tasks: int) -> None:
    head = build(CrossStitchConfig(levels=levels, tower=tower), tasks)
    for stitch in head.stitches:
        torch.nn.init.eye_(stitch.weight)
    single = single_task_like(head, levels, tower, tasks)
    (logits_BT, gradient), (expected_BT, expected_gradient) = backward(head), backward(single)
    assert torch.equal(logits_BT, expected_BT)
    assert_close(gradient, expected_gradient)


@few
@given(levels, towers, num_tasks)
def test_branched_without_branches_is_shared_bottom(levels: Levels, tower: tuple[int, ...], tasks: int) -> None:
    head = build(BranchedConfig(levels=levels, tower=tower), tasks)
    bottom = build(SharedBottomConfig(levels=levels, tower=tower), tasks, seed=7)
    load_per_module_state(bottom, as_trunks(per_module_state(head), list(map(len, levels)), ""))
    for found, expected in zip(backward(head), backward(bottom), strict=True):
        assert_close(found, expected)


@few
@given(levels, towers, num_tasks)
def test_branched_with_a_branch_for_each_task_is_single_task(
    levels: Levels, tower: tuple[int, ...], tasks: int
) -> None:
    apart = tuple((name,) for name in reversed(names(tasks)))
    head = build(BranchedConfig(levels=levels, tower=tower, tree=(apart,) * len(levels)), tasks)
    single = single_task_like(head, levels, tower, tasks)
    for found, expected in zip(backward(head), backward(single), strict=True):
        assert_close(found, expected)


def test_branches_are_numbered_by_their_parents_and_tasks() -> None:
    """However the config orders them, so that it means the same weights."""
    tree = (
        (("task 3", "task 1"), ("task 0", "task 2")),
        (("task 3",), ("task 2", "task 0"), ("task 1",)),
    )
    found = BranchedConfig(levels=((2,), (2,)), tree=tree).groups(names(4))
    assert found == [[[0, 2], [1, 3]], [[0, 2], [1], [3]]]


def test_networks_of_branches_are_named_by_their_tasks() -> None:
    tree = ((("a", "b", "c"),), (("c", "b"), ("a",)))
    head = BranchedConfig(levels=((2,), (2,)), tower=(), tree=tree).build(3, ["c", "a", "b"])
    tensors: State = {name: tensor for name, tensor in head.named_parameters() if name.endswith("weight")}
    assert list(named_parts(head, ["c", "a", "b"], tensors)) == [
        "levels.0.a and b and c.0.weight",
        "levels.1.b and c.0.weight",
        "levels.1.a.0.weight",
        *(f"towers.{task}.0.weight" for task in "cab"),
    ]


def test_stitches_start_near_the_identity() -> None:
    assert_close(Stitch(3, 4).weight, torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]))
    assert torch.equal(Stitch(1, 4).weight, torch.ones(1, 1))


@few
@given(levels, towers, num_tasks)
def test_ple_with_one_expert_and_none_shared_is_single_task(levels: Levels, tower: tuple[int, ...], tasks: int) -> None:
    """The gate of a single expert is 1."""
    head = build(PLEConfig(levels=levels, tower=tower, task_experts=1, shared_experts=0), tasks)
    single = single_task_like(head, levels, tower, tasks, infix="experts.")
    for found, expected in zip(backward(head), backward(single), strict=True):
        assert_close(found, expected)


def perceptron(state: State, stem: str, x: torch.Tensor, num_relu: int) -> torch.Tensor:
    """Layers `STEM.0`, `STEM.1`, … with a ReLU after the first `num_relu`."""
    layer = 0
    while f"{stem}.{layer}.weight" in state:
        x = functional.linear(x, state[f"{stem}.{layer}.weight"], state[f"{stem}.{layer}.bias"])
        x = x.relu() if layer < num_relu else x
        layer += 1
    return x


@many
@given(widths, towers, st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_ple_without_shared_experts_is_gated_single_task_experts(
    layers: tuple[int, ...], tower: tuple[int, ...], counts: list[int]
) -> None:
    config = PLEConfig(levels=(layers,), tower=tower, task_experts=tuple(counts), shared_experts=0)
    head = build(config, len(counts))
    state = per_module_state(head)

    def by_hand(x_BF: torch.Tensor) -> torch.Tensor:
        logits, first = [], 0
        for task, count in enumerate(counts):
            own = [perceptron(state, f"levels.0.experts.{first + n}", x_BF, len(layers)) for n in range(count)]
            gate = f"levels.0.gates.{task}"
            gate_BE = functional.linear(x_BF, state[f"{gate}.weight"], state[f"{gate}.bias"]).softmax(dim=1)
            fused_BH = torch.einsum("be,beh->bh", gate_BE, torch.stack(own, dim=1))
            logits.append(perceptron(state, f"towers.{task}", fused_BH, len(tower)))
            first += count
        return torch.cat(logits, dim=1)

    for found, expected in zip(backward(head), backward(by_hand), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("kind", [MMoEConfig, MLMMoEConfig], ids=ids)
def test_mmoe_with_one_expert_is_shared_bottom(kind: type[HeadConfig]) -> None:
    head = build(kind(levels=((4, 3),), tower=(2,), experts=1), 3)
    state = per_module_state(head)
    bottom = build(SharedBottomConfig(levels=((4, 3),), tower=(2,)), 3, seed=7)
    names = {name: name.replace("levels.0.experts", "trunk") for name in state if "gates" not in name}
    load_per_module_state(bottom, {new: state[old] for old, new in names.items()})
    for found, expected in zip(backward(head), backward(bottom), strict=True):
        assert_close(found, expected)


# ---- every parameter is used


def without_dead_units(head: Head) -> Head:
    """Every ReLU active, so that a gradient of zero means that a parameter is not used."""
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, Codes):  # as they are drawn: a step of 0 or 1 is flat
                continue
            for parameter in module.parameters(recurse=False):
                parameter.abs_().add_(0.1)
                if isinstance(module, Attention):  # small, since a softmax of 0 or 1 is flat
                    parameter.mul_(0.1)
            if isinstance(module, Average):
                module.noise_UE.fill_(0.5)
            if isinstance(module, Choices):
                module.noise.zero_()
                module.temperature.fill_(1)
                module.slow_scores.mul_(0.1)
                module.is_hard = False  # what nobody chooses is not used
            if isinstance(module, AdaShare):
                module.is_learned_L.fill_(True)
            if isinstance(module, Branching):
                module.is_learned.fill_(True)
    return head


def gates_of_one_expert(head: Head) -> set[str]:
    """Names of the gates that are the constant 1, whatever their weights."""
    if isinstance(head, SoftOrdering):
        return {"orders.0.scores"} if len(head.orders) == 1 else set()
    if isinstance(head, LearningToBranch):
        return {name for name in per_module_state(head) if name.endswith("slow_scores") and head.config.experts == 1}
    if isinstance(head, DSelectK):
        return {name for name in per_module_state(head) if ".gates." in name and head.levels[0].k == 1}
    return {
        f"{path}.gates.{unit}.{leaf}"
        for path, level in head.named_modules()
        if isinstance(level, FusionLevel)
        for unit, seen in enumerate(level.plan.sees)
        if len(seen) == 1
        for leaf in ("weight", "bias")
    }


def assert_every_parameter_is_used(config: HeadConfig, tasks: int) -> None:
    head = without_dead_units(build(config, tasks))
    weighted(head(draw_input().abs())).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    constant = gates_of_one_expert(head)
    for name, gradient in per_module_gradients(head).items():
        assert (gradient == 0).all() if name in constant else (gradient != 0).all(), name


@pytest.mark.parametrize("kind", HEADS, ids=ids)
@many
@given(data=st.data())
def test_every_parameter_is_used(kind: type[HeadConfig], data: st.DataObject) -> None:
    """DDP waits for ever for the gradient of a parameter that the forward does not reach."""
    assert_every_parameter_is_used(*data.draw(cases(kind)))


@pytest.mark.parametrize("case", FIXED + EDGES, ids=ids)
def test_every_parameter_of_chosen_heads_is_used(case: Case) -> None:
    assert_every_parameter_is_used(*case)
