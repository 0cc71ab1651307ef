"""Heads against their loop versions, and what holds for every head: rows, activations, dropout, autocast.

Shapes: B rows, F features, T tasks.
"""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from models.heads.base import ROWS_IN_CACHE, Head, HeadConfig
from models.heads.related.pepnet import PEPNetConfig
from models.heads.related.stem import STEMConfig
from models.heads.shared_bottom import SharedBottomConfig
from models.layers import ActivationName
from models.per_layer_state import per_module_state
from tests.models.heads import (
    EDGES,
    FIXED,
    HEADS,
    Case,
    assert_close,
    assert_equal_loop,
    backward,
    build,
    cases,
    draw_input,
    fitting,
    ids,
    many,
    weighted,
)

ACTIVATIONS: tuple[ActivationName, ...] = get_args(ActivationName)
LAST_WITHOUT_STOPS = next(case for case in reversed(FIXED) if not isinstance(case[0], PEPNetConfig | STEMConfig))
"""Finite differences are another gradient where some are stopped."""
each_head = pytest.mark.parametrize("case", FIXED, ids=ids)


@pytest.mark.parametrize("kind", HEADS, ids=ids)
@many
@given(data=st.data())
def test_a_head_equals_its_loop(kind: type[HeadConfig], data: st.DataObject) -> None:
    assert_equal_loop(*data.draw(cases(kind)))


@pytest.mark.parametrize("case", FIXED + EDGES, ids=ids)
def test_chosen_heads_equal_their_loops(case: Case) -> None:
    assert_equal_loop(*case)


@pytest.mark.parametrize("rows", [0, 1, ROWS_IN_CACHE, ROWS_IN_CACHE + 1, 2 * ROWS_IN_CACHE + 52])
@each_head
def test_any_number_of_rows_equals_the_loop(case: Case, rows: int) -> None:
    """A head takes many rows in parts."""
    assert_equal_loop(*case, rows)


@each_head
def test_a_row_does_not_depend_on_the_others(case: Case) -> None:
    head, x_BF = build(*case), draw_input()
    assert_close(torch.cat([head(row[None]) for row in x_BF]), head(x_BF))
    assert_close(head(x_BF.flip(0)), head(x_BF).flip(0))


@each_head
def test_dropout_is_for_training_only(case: Case) -> None:
    config, tasks = case
    head, x_BF = build(config.model_copy(update={"dropout": 0.5}), tasks), draw_input()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        often_BF = x_BF.repeat(20, 1)
        assert not torch.equal(head(often_BF), head(often_BF))
    head.eval()
    assert torch.equal(head(x_BF), build(config, tasks).eval()(x_BF))


@pytest.mark.parametrize("tower", [(), (1,)])
def test_dropout_follows_every_hidden_layer_and_keeps_the_mean(tower: tuple[int, ...]) -> None:
    """Of a unit that every layer hands on; what is left of it is scaled up by 1/(1 - dropout) for each hidden layer."""
    head = build(SharedBottomConfig(levels=((1,), (1,)), tower=tower, dropout=0.5), 1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, parameter in head.named_parameters():
            parameter.fill_(float(name.endswith("weight")))
        logits = head(torch.full((20000, 3), 1 / 3, dtype=torch.float64))
    layers = 2 + len(tower)
    kept = logits != 0
    assert_close(logits[kept], torch.full_like(logits[kept], 2.0**layers))
    assert kept.double().mean().item() == pytest.approx(0.5**layers, rel=0.1)


# ---- activations


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_follows_every_hidden_layer(activation: ActivationName) -> None:
    head = build(SharedBottomConfig(levels=((4,), (3,)), tower=(2,), activation=activation), 2)
    state = {name: tensor.requires_grad_() for name, tensor in per_module_state(head).items()}

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        act = getattr(functional, activation)
        for name in ("trunk.0.0", "trunk.0.1"):
            x = act(functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]))
        logits = []
        for task in range(2):
            first, last = f"towers.{task}.0", f"towers.{task}.1"
            hidden = act(functional.linear(x, state[f"{first}.weight"], state[f"{first}.bias"]))
            logits.append(functional.linear(hidden, state[f"{last}.weight"], state[f"{last}.bias"]))
        return torch.cat(logits, dim=1)

    for found, expected in zip(backward(head), backward(by_hand), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", [FIXED[0], LAST_WITHOUT_STOPS], ids=ids)
def test_gradients_are_right_for_every_activation(case: Case, activation: ActivationName) -> None:
    """Finite differences: activations work in place, and must leave what backward needs."""
    config, tasks = case
    head = build(config.model_copy(update={"activation": activation}), tasks)
    inputs = (draw_input(2), *head.parameters())
    assert torch.autograd.gradcheck(lambda x_BF, *_: head(x_BF), inputs, fast_mode=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", FIXED[-1:], ids=ids)
def test_training_lowers_the_loss(case: Case, activation: ActivationName) -> None:
    config, tasks = case
    head, x_BF = build(config.model_copy(update={"activation": activation}), tasks), draw_input().detach()
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = weighted(head(x_BF))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]


# ---- autocast


def float_gradients(head: Head, x_BF: torch.Tensor, autocast: bool) -> dict[str, torch.Tensor]:
    """Logits, input gradient and parameter gradients by name, in float32."""
    head.zero_grad()
    x_BF = x_BF.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits_BT = head(x_BF)
    assert logits_BT.dtype == (torch.bfloat16 if autocast else torch.float32)
    logits_BT.float().sum().backward()
    tensors = {name: parameter.grad for name, parameter in head.named_parameters()}
    return {name: tensor for name, tensor in (tensors | {"x": x_BF.grad}).items() if tensor is not None} | {
        "logits": logits_BT.detach().float()
    }


@each_head
def test_autocast_is_close_to_float32(case: Case) -> None:
    config, tasks = case
    levels = fitting(type(config), ((64, 32), (32,)))
    wide = config.model_copy(update={"levels": levels, "tower": (16,), "activation": "silu"})
    head = nn.Module.float(build(wide, tasks))
    x_BF = draw_input(64).detach().float()
    expected, found = float_gradients(head, x_BF, autocast=False), float_gradients(head, x_BF, autocast=True)
    assert found.keys() == expected.keys() == {"x", "logits", *(name for name, _ in head.named_parameters())}
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32, name
        assert found[name].isfinite().all(), name
        assert (found[name] - tensor).norm() <= 0.1 * tensor.norm() + 1e-6, name
