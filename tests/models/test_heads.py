from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from models.heads import AnyHeadConfig
from models.heads.adatt import AdaTT, AdaTTConfig, AdaTTSpConfig
from models.heads.base import HeadConfig
from models.heads.shared_bottom import SharedBottomConfig
from tests.models.reference import LoopAdaTT, LoopHead, LoopSharedBottom, columns_of_experts, gradient_pairs, load

BATCH, FEATURES = 5, 3
exact = settings(derandomize=True, deadline=None, max_examples=25, database=None)
few = settings(exact, max_examples=12)
widths = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
levels = st.lists(widths, min_size=1, max_size=3).map(tuple)
towers = st.lists(st.integers(1, 4), max_size=2).map(tuple)
num_tasks = st.integers(1, 6)
Case = tuple[HeadConfig, int]


@st.composite
def adatt_cases(draw: st.DrawFn) -> Case:
    tasks = draw(num_tasks)
    each = st.lists(st.integers(1, 3), min_size=tasks, max_size=tasks).map(tuple)
    values: dict[str, Any] = {
        "levels": draw(levels),
        "tower": draw(towers),
        "task_experts": draw(st.integers(1, 3) | each),
    }
    if draw(st.booleans()):
        return AdaTTSpConfig(**values), tasks
    return AdaTTConfig(**values, shared_experts=draw(st.integers(0, 3))), tasks


@st.composite
def shared_bottom_cases(draw: st.DrawFn) -> Case:
    return SharedBottomConfig(levels=draw(levels), tower=draw(towers)), draw(num_tasks)


def build(config: HeadConfig, tasks: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return config.build(FEATURES, tasks).double()


def build_pair(config: HeadConfig, tasks: int) -> tuple[nn.Module, LoopHead]:
    head = build(config, tasks)
    loop: LoopHead
    if isinstance(config, AdaTTSpConfig):
        loop = LoopAdaTT(config, FEATURES, tasks)
    else:
        assert isinstance(config, SharedBottomConfig)
        loop = LoopSharedBottom(config, FEATURES, tasks)
    load(loop, head)
    return head, loop


def draw_input(rows: int = BATCH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, FEATURES, dtype=torch.float64, generator=generator).requires_grad_()


def backward(head: nn.Module, rows: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the gradient with respect to the input, of a loss that weighs every logit differently."""
    x_BF = draw_input(rows)
    logits_BT = head(x_BF)
    weight_BT = torch.arange(1, logits_BT.numel() + 1, dtype=torch.float64).view(logits_BT.shape).cos()
    (logits_BT * weight_BT).sum().backward()
    assert x_BF.grad is not None
    return logits_BT.detach(), x_BF.grad


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def assert_equal_loop(config: HeadConfig, tasks: int, rows: int = BATCH) -> None:
    head, loop = build_pair(config, tasks)
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in loop.parameters())
    logits_BT, input_gradient = backward(head, rows)
    loop_logits_BT, loop_input_gradient = backward(loop, rows)
    assert logits_BT.shape == (rows, tasks)
    assert_close(logits_BT, loop_logits_BT)
    assert_close(input_gradient, loop_input_gradient)
    compared = 0
    for ours, theirs in gradient_pairs(loop, head):
        assert_close(theirs, ours)
        compared += ours.numel()
    assert compared == sum(p.numel() for p in loop.parameters())


@exact
@given(adatt_cases())
@example((AdaTTConfig(levels=((4,), (3,)), task_experts=(1, 2, 1), shared_experts=2, tower=(2,)), 3))
@example((AdaTTConfig(levels=((4,), (3,)), task_experts=1, shared_experts=1, tower=()), 2))
@example((AdaTTConfig(levels=((2,),), task_experts=1, shared_experts=3), 1))
@example((AdaTTSpConfig(levels=((4, 2), (3, 2), (2,)), task_experts=(3, 1, 3, 1, 2, 1), tower=(2,)), 6))
def test_adatt_equals_the_loop(case: Case) -> None:
    assert_equal_loop(*case)


@few
@given(shared_bottom_cases())
def test_shared_bottom_equals_the_loop(case: Case) -> None:
    assert_equal_loop(*case)


@pytest.mark.parametrize("rows", [0, 1, 512, 513, 1100])
@pytest.mark.parametrize(
    "config", [AdaTTConfig(levels=((4,), (3,)), task_experts=2), SharedBottomConfig(levels=((4,),))]
)
def test_any_number_of_rows_equals_the_loop(config: HeadConfig, rows: int) -> None:
    """A head may take many rows in parts."""
    assert_equal_loop(config, 2, rows)


@few
@given(adatt_cases())
def test_fusion_weights_are_gate_plus_native(case: Case) -> None:
    """A unit's weights over all experts: its gate's share, which sums to 1, and v on its own."""
    head, loop = build_pair(*case)
    assert isinstance(loop, LoopAdaTT)
    x_BF = draw_input().detach()
    level, loop_level = head.levels[0], loop.levels[0]
    found_BUE = level.weights(x_BF)
    places = columns_of_experts(level)
    for unit, gate in enumerate(loop_level.gates):
        expected_BE = torch.softmax(gate(x_BF), dim=1)
        first = sum(map(len, places[:unit]))
        expected_BE[:, first : first + len(places[unit])] += loop_level.native[unit] if len(loop_level.native) else 1
        assert_close(found_BUE[:, unit][:, list(chain(*places))], expected_BE)


@few
@given(levels, towers, num_tasks, st.integers(1, 3))
def test_adatt_without_shared_experts_is_adatt_sp(
    levels: tuple[tuple[int, ...], ...], tower: tuple[int, ...], tasks: int, experts: int
) -> None:
    general = build(AdaTTConfig(levels=levels, tower=tower, task_experts=experts, shared_experts=0), tasks)
    special = build(AdaTTSpConfig(levels=levels, tower=tower, task_experts=experts), tasks)
    assert [name for name, _ in general.named_parameters()] == [name for name, _ in special.named_parameters()]
    for found, expected in zip(backward(general), backward(special), strict=True):
        assert torch.equal(found, expected)


def without_dead_units(head: nn.Module) -> nn.Module:
    """Every ReLU active, so that a gradient of zero means that a parameter is not used."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.abs_().add_(0.1)
    return head


@exact
@given(adatt_cases() | shared_bottom_cases())
@example((AdaTTConfig(levels=((2,),), task_experts=1, shared_experts=2), 2))
@example((AdaTTConfig(levels=((2,), (2,)), task_experts=2, shared_experts=1), 1))
def test_every_parameter_is_used(case: Case) -> None:
    """DDP waits for ever for the gradient of a parameter that the forward does not reach."""
    head = without_dead_units(build(*case))
    torch.manual_seed(0)
    (head(draw_input().abs()) * torch.rand(BATCH, case[1])).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        if ".gate." not in name:  # the gate of a single expert is the constant 1
            assert (parameter.grad != 0).all(), name


@few
@given(adatt_cases())
def test_native_weights_are_one_only_where_every_unit_has_one_expert(case: Case) -> None:
    config, tasks = case
    head = build(config, tasks)
    assert isinstance(config, AdaTTSpConfig)
    assert isinstance(head, AdaTT)
    counts = config.units(tasks)
    for index, level in enumerate(head.levels):
        fusing = tasks if index + 1 == len(head.levels) else len(counts)
        assert level.fusing == fusing
        if max(counts) == 1:
            assert level.native is None
        else:
            assert level.native.shape == (sum(counts[:fusing]),)


def test_native_weights_start_uniform_within_the_root_of_the_experts() -> None:
    (level,) = AdaTTSpConfig(levels=((1,),), task_experts=(900, 400)).build(1, 2).levels
    for unit, count in enumerate((900, 400)):
        own = level.native[[place for place, owner in enumerate(level.unit_of_expert) if owner == unit]]
        bound = count**-0.5
        assert bound * 0.98 < own.abs().max() <= bound
        assert abs(own.mean()) < bound * 0.1
        assert own.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize(
    "make", [lambda: AdaTTConfig(task_experts=2), lambda: AdaTTSpConfig(), lambda: SharedBottomConfig()]
)
def test_meta_heads_have_the_shapes_of_real_ones(make: Callable[[], HeadConfig]) -> None:
    real, meta = make().build(FEATURES, 2), make().build_on_meta(FEATURES, 2)
    assert {parameter.device.type for parameter in meta.parameters()} == {"meta"}
    shapes = [[(name, p.shape) for name, p in head.named_parameters()] for head in (real, meta)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("config", [AdaTTConfig(dropout=0.5), SharedBottomConfig(dropout=0.5)])
def test_dropout_is_for_training_only(config: HeadConfig) -> None:
    head, x_BF = build(config, 3), draw_input()
    torch.manual_seed(0)
    assert not torch.equal(head(x_BF), head(x_BF))
    head.eval()
    assert torch.equal(head(x_BF), head(x_BF))
    plain = build(config.model_copy(update={"dropout": 0.0}), 3)
    assert torch.equal(head(x_BF), plain(x_BF))


def test_a_row_does_not_depend_on_the_others() -> None:
    head, x_BF = build(AdaTTConfig(task_experts=2, shared_experts=2), 3), draw_input()
    assert_close(torch.cat([head(row[None]) for row in x_BF]), head(x_BF))
    assert head(x_BF[:0]).shape == (0, 3)


# ---- configs


@pytest.mark.parametrize(
    ("config", "tasks", "message"),
    [
        (AdaTTConfig(task_experts=(1, 2, 3)), 2, r"task_experts = \[1, 2, 3\] must be .* for each of 2 tasks"),
        (AdaTTSpConfig(task_experts=(2,)), 2, r"task_experts = \[2\] must be .* for each of 2 tasks"),
    ],
)
def test_numbers_that_do_not_fit_the_tasks_are_refused(config: HeadConfig, tasks: int, message: str) -> None:
    for build_head in (config.build, config.build_on_meta):
        with pytest.raises(ValueError, match=message):
            build_head(FEATURES, tasks)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head": "mixture"}, "mixture"),
        ({}, "head"),
        ({"head": "adatt", "levels": []}, "levels"),
        ({"head": "adatt", "levels": [[]]}, "levels"),
        ({"head": "adatt", "levels": [[0]]}, "levels"),
        ({"head": "shared_bottom", "levels": []}, "levels"),
        ({"head": "adatt", "shared_experts": -1}, "shared_experts"),
        ({"head": "adatt_sp", "shared_experts": 1}, "shared_experts"),
        ({"head": "shared_bottom", "task_experts": 1}, "task_experts"),
        ({"head": "adatt_sp", "task_experts": 0}, "task_experts"),
        ({"head": "adatt", "task_experts": -1}, "task_experts"),
        ({"head": "adatt", "task_experts": [1, 0]}, "task_experts"),
        ({"head": "adatt", "task_experts": []}, "task_experts"),
        ({"head": "adatt", "tower": [0]}, "tower"),
        ({"head": "adatt", "dropout": 1.0}, "dropout"),
        ({"head": "adatt", "dropout": -0.1}, "dropout"),
    ],
)
def test_wrong_configs_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AnyHeadConfig).validate_python(values)


@pytest.mark.parametrize("kind", [AdaTTConfig, AdaTTSpConfig, SharedBottomConfig])
def test_a_head_is_found_by_its_name(kind: type[HeadConfig]) -> None:
    config = kind(tower=(7,))
    assert TypeAdapter(AnyHeadConfig).validate_python(config.model_dump()) == config
