"""Heads with masks, orders, routes and selectors: penalties, noise, what they show, and where they are another head.

Shapes: B rows, T tasks.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.columns import Columns, unnamed_columns
from models.heads.base import HeadConfig
from models.heads.mmoe import MMoEConfig
from models.heads.related.adashare import AdaShareConfig
from models.heads.related.aitm import AITMConfig
from models.heads.related.branched import BranchedConfig
from models.heads.related.dselect_k import DSelectKConfig, smooth_step
from models.heads.related.mrn import MRNConfig
from models.heads.related.mtan import MTANConfig
from models.heads.related.pepnet import PEPNetConfig
from models.heads.related.sluice import SluiceConfig
from models.heads.related.snr import SNRConfig
from models.heads.related.soft_ordering import SoftOrderingConfig
from models.heads.related.stem import STEMConfig
from models.heads.shared_bottom import SharedBottomConfig, SingleTaskConfig
from models.per_layer_state import load_per_module_state, per_module_gradients, per_module_state
from tests.models.heads import ROWS, assert_close, backward, build, build_pair, cases, draw_input, few, ids, names

PENALTIES: dict[type[HeadConfig], tuple[str, ...]] = {
    SluiceConfig: ("orthogonality",),
    SNRConfig: ("l0",),
    DSelectKConfig: ("entropy",),
    AITMConfig: ("constraint",),
    AdaShareConfig: ("sparsity", "sharing"),
    MRNConfig: ("prior",),
}
"""Keys that weigh a penalty of the same name."""
WEIGHTS_B = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.0], dtype=torch.float64)
"""The third row and the last are padding."""


@pytest.mark.parametrize("kind", PENALTIES, ids=ids)
@few
@given(data=st.data())
def test_penalties_equal_the_loop(kind: type[HeadConfig], data: st.DataObject) -> None:
    config, tasks = data.draw(cases(kind))
    head, loop = build_pair(config, tasks)
    x_BF, loop_x_BF = draw_input(), draw_input()
    found = head.penalties(head(x_BF), WEIGHTS_B)
    expected = loop.penalties(loop(loop_x_BF), WEIGHTS_B)
    assert found.keys() == expected.keys()
    for name, penalty in expected.items():
        assert_close(found[name], penalty)

    if not expected:
        return
    sum(found.values()).backward()
    sum(expected.values()).backward()
    if x_BF.grad is not None:
        assert_close(x_BF.grad, loop_x_BF.grad)
        assert (x_BF.grad[WEIGHTS_B == 0] == 0).all()
    gradients = per_module_gradients(head)
    for name, parameter in loop.named_parameters():
        if parameter.grad is not None:
            assert_close(gradients[name], parameter.grad)


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in PENALTIES.items() for key in keys], ids=ids)
def test_a_weight_of_0_is_no_penalty(kind: type[HeadConfig], key: str) -> None:
    head = build(kind(**{key: 0.0}), 2)
    assert head.penalties(head(draw_input()), WEIGHTS_B).keys() == {*PENALTIES[kind]} - {key}


def test_penalties_are_of_the_last_forward_alone() -> None:
    head = build(DSelectKConfig(), 2)
    once = head.penalties(head(draw_input()), WEIGHTS_B)
    head(draw_input())
    assert_close(head.penalties(head(draw_input()), WEIGHTS_B)["entropy"], once["entropy"])


# ---- noise


def test_gates_of_a_step_are_those_of_its_seed() -> None:
    head = build(SNRConfig(experts=3), 2)
    drawn = []
    for seed in (1, 2, 1):
        head.begin(0, seed)
        drawn.append([route.noise_UE.clone() for route in head.routes])
    assert all(torch.equal(one, other) for one, other in zip(drawn[0], drawn[2], strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0][0][:2], drawn[0][1])


def test_gates_open_as_often_as_the_penalty_says() -> None:
    head = build(SNRConfig(experts=200, levels=((1,), (1,)), tower=(), l0=1.0), 1)
    with torch.no_grad():
        for log_alpha in (-2.0, 0.0, 3.0):
            for route in head.routes:
                route.log_alpha_UE.fill_(log_alpha)
            head.begin(0, seed=1)
            is_open = torch.cat([route.gates().flatten() > 0 for route in head.routes]).double()
            expected = head.penalties(torch.zeros(1, 1), torch.ones(1))["l0"] / len(is_open)
            assert is_open.mean().item() == pytest.approx(expected.item(), abs=0.01)


def test_in_evaluation_gates_are_as_expected() -> None:
    head = build(SNRConfig(experts=3), 2).eval()
    before = head(draw_input())
    head.begin(0, seed=9)
    assert torch.equal(head(draw_input()), before)
    (gates_BTE,) = head.fusion_weights(draw_input())[-1:]
    log_alpha = head.routes[-1].log_alpha_UE[1, 2].item()
    assert gates_BTE[0, 1, 2].item() == pytest.approx(1.2 / (1 + math.exp(-log_alpha)) - 0.1)


# ---- what they show


def test_what_is_shown_is_what_is_used() -> None:
    x_BF = draw_input()
    sluice = build(SluiceConfig(levels=((4,), (4,))), 2)
    shown = sluice.fusion_weights(x_BF)
    for weights_BUE, used in zip(shown, [*sluice.stitches, sluice.mixture], strict=True):
        assert torch.equal(weights_BUE, used.weight.expand_as(weights_BUE))

    ordering = build(SoftOrderingConfig(levels=((4,), (4,))), 3)
    for weights_BTD, order in zip(ordering.fusion_weights(x_BF), ordering.orders, strict=True):
        assert_close(weights_BTD[0], order.scores.softmax(dim=1))

    mtan = build(MTANConfig(levels=((4,),), tower=()), 2)
    masks: list[torch.Tensor] = []
    mtan.masks.register_forward_hook(lambda _module, _inputs, outputs: masks.extend(outputs))
    (means_BTL,) = mtan.fusion_weights(x_BF)
    (mask_BTP,) = masks
    assert_close(means_BTL[..., 0], mask_BTP.mean(dim=2))
    assert ((mask_BTP > 0) & (mask_BTP < 1)).all()
    assert_close(mtan(x_BF), mtan.towers(mask_BTP * mtan.trunk[0](x_BF)))


def test_gates_are_shown_by_feature_and_by_layer() -> None:
    config = PEPNetConfig(levels=((4,),), tower=(3,), gate_features=("age",))
    head = config.build_for(Columns(("user", "age"), (2, 1)), names(2)).double()
    gates: list[torch.Tensor] = []
    head.epnet.feature_gates.register_forward_hook(lambda _module, _inputs, gate_BF: gates.append(gate_BF))
    head.task_gates.register_forward_hook(lambda _module, _inputs, of_layers: gates.extend(of_layers))
    by_feature_B1S, by_layer_BTL = head.fusion_weights(draw_input())
    gate_BF, first_BTH, second_BTH = gates
    assert_close(by_feature_B1S[:, 0], torch.stack([gate_BF[:, :2].mean(dim=1), gate_BF[:, 2]], dim=1))
    assert_close(by_layer_BTL, torch.stack([first_BTH.mean(dim=2), second_BTH.mean(dim=2)], dim=2))
    of_features, of_layers = head.fusion_names(["click", "like"])
    assert (of_features.units, of_features.experts) == (["all tasks"], ["user", "age"])
    assert (of_layers.units, of_layers.experts) == (["click", "like"], ["layer 0", "layer 1"])


# ---- gates of chosen features


def test_gate_features_are_found_by_name() -> None:
    columns = Columns(("user", "video", "age", "video"), (2, 4, 1, 3))
    assert columns.spans == [(0, 2), (2, 6), (6, 7), (7, 10)]
    assert columns.spans_of(["age", "user"]) == [(0, 2), (6, 7)]
    assert columns.spans_of(["video"]) == [(2, 6), (7, 10)]
    assert columns.spans_of(["video", "age"]) == [(2, 10)]
    head = PEPNetConfig(gate_features=("age", "user"), gate_width=5).build_for(columns, names(2))
    assert head.inner.weight.shape == (3, 5, 3 + 10)


def test_gates_train_no_other_feature() -> None:
    """Of a head whose networks read nothing of the input, the gates alone train it: by the chosen features."""
    head = build(PEPNetConfig(levels=((4,),), tower=(), gate_features=("feature 1",)), 2)
    with torch.no_grad():
        for layer in head.trunk.layers:
            layer.weight.zero_()
            layer.bias.fill_(1.0)
    _, gradient_BF = backward(head)
    assert (gradient_BF[:, 1] != 0).all()
    assert (gradient_BF[:, [0, 2]] == 0).all()


def test_pepnet_with_gates_of_1_is_single_task() -> None:
    keys = {"levels": ((4, 3), (2,)), "tower": (2,)}
    head, single = build(PEPNetConfig(**keys), 3), build(SingleTaskConfig(**keys), 3, seed=7)
    with torch.no_grad():
        for outer in (head.epnet.outer, *head.outer):
            outer.weight.zero_()
            outer.bias.zero_()
    state = per_module_state(head)
    networks = {name: part for name, part in state.items() if name.startswith(("trunk", "towers"))}
    load_per_module_state(single, networks)
    for found, expected in zip(backward(head), backward(single), strict=True):
        assert torch.equal(found, expected)


# ---- embeddings of each task


def test_a_task_trains_its_own_embeddings_and_the_shared_ones() -> None:
    """It reads those of all."""
    head = STEMConfig(levels=((6,),), tower=()).build_for(unnamed_columns(10, 4), names(3)).double()  # 4 of 2, 2 dense
    with torch.no_grad():
        for layer in head.levels[0].experts.layers:
            layer.bias.fill_(9.0)  # all active
    x_BF = draw_input(features=10)
    logits_BT = head(x_BF)
    for task in range(3):
        (gradient_BF,) = torch.autograd.grad(logits_BT[:, task].sum(), x_BF, retain_graph=True)
        is_trained = (gradient_BF.abs().sum(dim=0) > 0).unflatten(0, (5, 2)).all(dim=1).tolist()
        assert is_trained == [task == 0, task == 1, task == 2, True, True]
        for other in range(3):
            changed_BF = x_BF.detach().clone()
            changed_BF[:, 2 * other] += 1
            assert (head(changed_BF)[:, task] != logits_BT[:, task]).all()


def test_stem_of_dense_features_computes_what_mmoe_does() -> None:
    """There is nothing to embed then; its gradients are other ones, even so."""
    keys = {"levels": ((4, 3), (2,)), "tower": (2,)}
    stem = build(STEMConfig(**keys, task_experts=(1, 2, 1), shared_experts=2), 3)  # 3 columns are too few for 4 units
    mmoe = build(MMoEConfig(**keys, experts=6), 3, seed=7)
    load_per_module_state(mmoe, per_module_state(stem))
    assert_close(stem(draw_input()), mmoe(draw_input()))


# ---- selectors


def test_the_smooth_step() -> None:
    z = torch.tensor([-9.0, -0.5, -0.25, 0.0, 0.25, 0.5, 9.0], dtype=torch.float64)
    assert smooth_step(z, gamma=1.0).tolist() == pytest.approx([0, 0, 0.15625, 0.5, 0.84375, 1, 1])
    assert_close(smooth_step(2 * z, gamma=2.0), smooth_step(z, gamma=1.0))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_codes_that_have_settled_choose_k_experts(k: int) -> None:
    head = build(DSelectKConfig(experts=8, k=k), 2)
    with torch.no_grad():
        codes = head.levels[0].codes
        codes.weight.zero_()
        bits = torch.tensor([1.0, 1, 1, -1, -1, -1, 1, -1, -1])[: 3 * k]  # of experts 7, 0 and 1, lowest bit first
        codes.bias.copy_(bits.repeat(2)[:, None])
    (gate_BTE,) = head.fusion_weights(draw_input())
    chosen = [7, 0, 1][:k]
    assert_close(gate_BTE[..., chosen].sum(dim=2), torch.ones(ROWS, 2, dtype=torch.float64))
    assert ((gate_BTE[:, 0] > 0).sum(dim=1) == k).all()


# ---- limits


def test_soft_ordering_of_one_layer_is_shared_bottom() -> None:
    head, bottom = build(SoftOrderingConfig(levels=((4,),), tower=(2,)), 3), build(_two_layers(SharedBottomConfig), 3)
    state = per_module_state(head)
    names = {"encoder.0.0": "trunk.0.0", "shared.0": "trunk.0.1"}
    renamed = {
        names.get(stem, stem): stem for stem in (name.rpartition(".")[0] for name in state) if "orders" not in stem
    }
    load_per_module_state(
        bottom, {f"{new}.{leaf}": state[f"{old}.{leaf}"] for new, old in renamed.items() for leaf in ("weight", "bias")}
    )
    for found, expected in zip(backward(head), backward(bottom), strict=True):
        assert_close(found, expected)


def test_sluice_that_mixes_nothing_is_single_task() -> None:
    head, single = build(SluiceConfig(levels=((4,), (4,)), tower=(2,)), 3), build(_two_layers(SingleTaskConfig), 3)
    with torch.no_grad():
        for stitch in head.stitches:
            stitch.weight.copy_(torch.eye(6))
        head.mixture.weight.copy_(torch.tensor([0.0, 1.0]).expand(3, 2))
    state = per_module_state(head)
    for layer, task, leaf in ((a, b, c) for a in (0, 1) for b in range(3) for c in ("weight", "bias")):
        state[f"trunk.{task}.{layer}.{leaf}"] = state.pop(f"levels.{layer}.{task}.0.{leaf}")
    mixing = ("stitches", "mixture")
    load_per_module_state(single, {name: part for name, part in state.items() if not name.startswith(mixing)})
    for found, expected in zip(backward(head), backward(single), strict=True):
        assert_close(found, expected)


def _two_layers(kind: type[HeadConfig]) -> HeadConfig:
    return kind(levels=((4, 4),), tower=(2,))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SoftOrderingConfig(levels=((4,), (3,))), "one width"),
        (SluiceConfig(levels=((4,), (6,))), "one even width"),
        (SluiceConfig(levels=((3,),)), "one even width"),
        (AdaShareConfig(levels=((4,), (4, 3))), "end in one width"),
        (DSelectKConfig(experts=1), "2 or more"),
        (AITMConfig(chain=("task 0", "like")), "names 'like'"),
        (AITMConfig(chain=("task 1", "task 1")), "twice"),
        (PEPNetConfig(gate_features=("user",)), "names 'user'; the features are feature 0, feature 1, feature 2"),
        (PEPNetConfig(gate_features=("feature 1", "feature 1")), "twice"),
        (BranchedConfig(levels=((2,),), tree=((("task 0", "like"),),)), "names 'like'"),
        (BranchedConfig(levels=((2,),), tree=((("task 0",), ("task 0", "task 1")),)), "twice"),
        (BranchedConfig(levels=((2,),), tree=((("task 0",),),)), "no group with task 'task 1'"),
        (BranchedConfig(levels=((2,),), tree=((("task 0", "task 1"), ()),)), "empty group"),
        (BranchedConfig(levels=((2,), (2,)), tree=((("task 0", "task 1"),),)), "1 levels, and model.levels 2"),
        (
            BranchedConfig(levels=((2,), (2,)), tree=((("task 0",), ("task 1",)), (("task 0", "task 1"),))),
            "parted stay apart",
        ),
    ],
    ids=ids,
)
def test_what_a_head_cannot_be_is_said(config: HeadConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.build_on_meta(3, names(2))
