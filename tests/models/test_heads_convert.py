"""Weights under the names of single layers, and what a head costs."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loops import build_loop, share_noise
from models.cost import head_cost
from models.heads.adatt import AdaTTConfig
from models.heads.base import ROWS_IN_CACHE, HeadConfig
from models.heads.cross_stitch import CrossStitchConfig
from models.per_layer_state import State, load_per_module_state, per_module_gradients, per_module_state
from tests.models.heads import (
    FEATURES,
    FIXED,
    HEADS,
    ROWS,
    Case,
    assert_close,
    build,
    cases,
    draw_input,
    ids,
    many,
    names,
    weighted,
)

each_head = pytest.mark.parametrize("case", FIXED, ids=ids)


@pytest.mark.parametrize("kind", HEADS, ids=ids)
@many
@given(data=st.data())
def test_loading_what_another_head_gave_makes_it_equal(kind: type[HeadConfig], data: st.DataObject) -> None:
    config, tasks = data.draw(cases(kind))
    first, second = build(config, tasks), build(config, tasks, seed=1)
    load_per_module_state(second, per_module_state(first))
    for found, expected in zip(second.parameters(), first.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(first(draw_input()), second(draw_input()))


@each_head
def test_a_head_takes_the_weights_of_a_loop(case: Case) -> None:
    config, tasks = case
    head, loop = build(config, tasks), build_loop(config, FEATURES, tasks).double()
    load_per_module_state(head, loop.state_dict())
    share_noise(head, loop)
    assert_close(head(draw_input()), loop(draw_input()))


@each_head
def test_states_are_copies(case: Case) -> None:
    head = build(*case)
    before = head(draw_input())
    for tensor in per_module_state(head).values():
        tensor.zero_()
    weighted(before).backward()
    for tensor in per_module_gradients(head).values():
        tensor.zero_()
    assert torch.equal(head(draw_input()), before)
    assert any((parameter.grad != 0).any() for parameter in head.parameters())


@each_head
def test_parameters_without_gradient_have_none_by_module_either(case: Case) -> None:
    head = build(*case)
    assert per_module_gradients(head) == {}
    head.towers.logit.weight.grad = torch.ones_like(head.towers.logit.weight)
    assert per_module_gradients(head).keys() == {f"towers.{task}.1.weight" for task in range(case[1])}


def test_names() -> None:
    """docs/heads.md promises them."""
    adatt = AdaTTConfig(levels=((4, 3),), task_experts=(2, 1), shared_experts=1, tower=(2,)).build(FEATURES, names(2))
    experts = [f"levels.0.experts.{expert}.{layer}" for expert in range(4) for layer in range(2)]
    layers = [
        *experts,
        "levels.0.gates.0",
        "levels.0.gates.1",
        *(f"towers.{t}.{n}" for t in range(2) for n in range(2)),
    ]
    native = {"levels.0.native.0", "levels.0.native.1"}
    assert (
        per_module_state(adatt).keys()
        == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")} | native
    )
    stitch = per_module_state(CrossStitchConfig(levels=((4,),), tower=()).build(FEATURES, names(1)))
    assert stitch.keys() == {
        *(f"{layer}.{kind}" for layer in ("levels.0.0.0", "towers.0.0") for kind in ("weight", "bias")),
        "stitches.0.weight",
    }


# ---- refused


def drop(state: State, name: str) -> None:
    del state[name]


def add(state: State, name: str) -> None:
    state[f"{name}_too"] = state[name]


def misshape(state: State, name: str) -> None:
    state[name] = torch.zeros(*state[name].shape, 2)


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop, "weights '{0}' are missing"),
        (add, "weights '{0}_too' are not part of this head"),
        (misshape, r"weights '{0}' are \[.*, 2\]; this head has \["),
    ],
)
@each_head
def test_a_state_that_does_not_fit_is_refused_whole(
    case: Case, spoil: Callable[[State, str], None], message: str, place: int
) -> None:
    head, state = build(*case), per_module_state(build(*case, seed=1))
    before = per_module_state(head)
    name = list(state)[place]
    spoil(state, name)
    with pytest.raises(ValueError, match=message.format(name)):
        load_per_module_state(head, state)
    after = per_module_state(head)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


# ---- cost


def assert_counted(config: HeadConfig, tasks: int, rows: int = ROWS) -> None:
    head, cost = build(config, tasks), head_cost(config, FEATURES, names(tasks))
    with FlopCounterMode(display=False) as counter:
        logits_BT = head(draw_input(rows))
    assert counter.get_total_flops() == rows * cost.forward_flops
    with FlopCounterMode(display=False) as counter:
        weighted(logits_BT).backward()
    assert counter.get_total_flops() == rows * (cost.training_flops - cost.forward_flops)
    assert cost.parameters == sum(parameter.numel() for parameter in head.parameters())


@pytest.mark.parametrize("kind", HEADS, ids=ids)
@many
@given(data=st.data())
def test_cost_is_what_torch_counts(kind: type[HeadConfig], data: st.DataObject) -> None:
    assert_counted(*data.draw(cases(kind)))


@each_head
def test_cost_of_many_rows_is_what_torch_counts(case: Case) -> None:
    assert_counted(*case, rows=ROWS_IN_CACHE + 76)


def test_cost_of_numbers_that_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="task_experts"):
        head_cost(AdaTTConfig(task_experts=(1, 2)), FEATURES, names(3))
