"""Fusion weights: what a gated head reports is what it computes with.

Shapes: B rows, U fused outputs, E experts, H expert width.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.base import HeadConfig
from models.heads.mmoe import MLMMoEConfig, MMoEConfig
from models.heads.ple import PLEConfig
from models.heads.shared_bottom import SharedBottomConfig, SingleTaskConfig
from tests.models.heads import (
    GATED,
    HEADS,
    ROWS,
    assert_close,
    build,
    build_pair,
    cases,
    draw_input,
    ids,
    many,
    names,
    units_of_experts,
)

each_gated_head = pytest.mark.parametrize("kind", GATED, ids=ids)


def native_by_hand(config: HeadConfig, loop_level: nn.Module, units: list[int]) -> torch.Tensor:
    """native_UE: v or 1 on a unit's own experts in AdaTT, else 0."""
    native_UE = torch.zeros(len(loop_level.gates), len(units), dtype=torch.float64)
    if isinstance(config, AdaTTSpConfig | AdaTTConfig) and config.native_fusion:
        learned = getattr(loop_level, "native", None)
        for unit, row_E in enumerate(native_UE):
            own = [expert for expert, owner in enumerate(units) if owner == unit]
            row_E[own] = row_E.new_ones(len(own)) if learned is None else learned[unit]
    return native_UE


@each_gated_head
@many
@given(data=st.data())
@torch.no_grad()
def test_fusion_weights_are_gate_plus_native(kind: type[HeadConfig], data: st.DataObject) -> None:
    config, tasks = data.draw(cases(kind))
    head, loop = build_pair(config, tasks)
    units, x_BF = units_of_experts(config, tasks), draw_input()
    found = head.fusion_weights(x_BF)
    assert len(found) == len(loop.levels)
    for weights_BUE, level in zip(found, loop.levels, strict=True):
        assert weights_BUE.shape == (ROWS, len(level.gates), len(units))
        gate_BUE = weights_BUE - native_by_hand(config, level, units)
        assert_close(gate_BUE.sum(dim=2), torch.ones_like(gate_BUE[:, :, 0]))
        assert (gate_BUE >= -1e-12).all()
    first_BUE = found[0] - native_by_hand(config, loop.levels[0], units)
    for unit, gate in enumerate(loop.levels[0].gates):
        seen = (
            first_BUE[:, unit]
            if not isinstance(config, PLEConfig)
            else first_BUE[:, unit, ple_sees(unit, units, tasks)]
        )
        assert_close(seen, gate(x_BF).softmax(dim=1))


def ple_sees(unit: int, units: list[int], tasks: int) -> list[int]:
    """The experts of a task and the shared ones; for the shared unit all."""
    return [expert for expert, owner in enumerate(units) if unit == tasks or owner in (unit, tasks)]


@each_gated_head
@many
@given(data=st.data())
@torch.no_grad()
def test_fusing_by_hand_with_the_weights_gives_the_levels(kind: type[HeadConfig], data: st.DataObject) -> None:
    config, tasks = data.draw(cases(kind))
    head, loop = build_pair(config, tasks)
    fused: list[torch.Tensor] = []
    for level in head.levels:
        level.register_forward_hook(lambda _module, _inputs, outputs: fused.append(outputs[0]))
    units, x_BF = units_of_experts(config, tasks), draw_input()
    of_units = [x_BF] * (max(units) + 1)
    for number, weights_BUE in enumerate(head.fusion_weights(x_BF)):
        experts = [expert(of_units[unit]) for expert, unit in zip(loop.levels[number].experts, units, strict=True)]
        by_hand_BUH = torch.einsum("bue,beh->buh", weights_BUE, torch.stack(experts, dim=1))
        assert_close(fused[number], by_hand_BUH)
        of_units = list(by_hand_BUH.unbind(dim=1))
    assert_close(head(x_BF), loop.towers(of_units))


@many
@given(cases(PLEConfig))
@torch.no_grad()
def test_ple_tasks_take_nothing_from_each_other(case: tuple[HeadConfig, int]) -> None:
    config, tasks = case
    units = units_of_experts(config, tasks)
    for weights_BUE in build(config, tasks).fusion_weights(draw_input()):
        for unit in range(weights_BUE.shape[1]):
            others = sorted(set(range(len(units))) - set(ple_sees(unit, units, tasks)))
            assert (weights_BUE[:, unit, others] == 0).all()


@pytest.mark.parametrize("kind", HEADS, ids=ids)
@many
@given(data=st.data())
def test_names_fit_the_weights(kind: type[HeadConfig], data: st.DataObject) -> None:
    config, tasks = data.draw(cases(kind))
    head = build(config, tasks)
    weights = head.fusion_weights(draw_input())
    for level, weights_BUE in zip(head.fusion_names(names(tasks)), weights, strict=True):
        assert len(weights_BUE) == ROWS
        assert weights_BUE.shape[1:] == (len(level.units), len(level.experts))
        assert len(set(level.units)) == len(level.units)
        assert len(set(level.experts)) == len(level.experts)
    if weights:
        assert set(head.fusion_names(names(tasks))[-1].units) <= set(names(tasks))


def test_names_say_whose_expert_it_is() -> None:
    below, last = PLEConfig(levels=((2,), (2,)), task_experts=(2, 1)).build(3, names(2)).fusion_names(["click", "like"])
    assert below.experts == last.experts == ["click 0", "click 1", "like 0", "shared 0"]
    assert (below.units, last.units) == (["click", "like", "shared"], ["click", "like"])
    (level,) = MMoEConfig(experts=2).build(3, names(3)).fusion_names(["a", "b", "c"])
    assert (level.units, level.experts) == (["a", "b", "c"], ["expert 0", "expert 1"])


def test_below_the_last_level_of_ml_mmoe_outputs_are_experts_even_if_as_many_as_tasks() -> None:
    below, last = MLMMoEConfig(levels=((2,), (2,)), experts=2).build(3, names(2)).fusion_names(["click", "like"])
    assert (below.units, last.units) == (["expert 0", "expert 1"], ["click", "like"])


@pytest.mark.parametrize("config", [SharedBottomConfig(), SingleTaskConfig()], ids=ids)
def test_heads_without_gates_have_no_fusion_weights(config: HeadConfig) -> None:
    head = build(config, 2)
    assert head.fusion_weights(draw_input()) == []
    assert head.fusion_names(["click", "like"]) == []
