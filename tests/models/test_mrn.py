"""mrn: its penalty, its estimates against explicit Kronecker products, and when these are due.

Shapes: T tasks, O outputs of a layer, I inputs.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loops.mrn import flip_flop
from models.heads.base import Head
from models.heads.related.mrn import MRNConfig, TensorNormal
from models.heads.shared_bottom import SharedBottomConfig
from models.per_layer_state import per_module_gradients, per_module_state
from tests.models.heads import assert_close, backward, build, draw_input, many, names

KEYS = {"levels": ((4, 3),), "tower": (3, 2)}
ROW = torch.ones(1)
sizes = st.integers(1, 5)


def draw_weight(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def penalty(head: Head) -> torch.Tensor:
    return head.penalties(torch.zeros(1, 3), ROW)["prior"]


def estimates(head: Head) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in head.named_buffers()}


# ---- estimates


@many
@given(sizes, sizes, sizes, st.booleans(), st.integers(1, 3), st.integers(0, 99))
def test_estimates_are_those_of_the_kronecker_product(
    tasks: int, outputs: int, inputs: int, estimates_all: bool, rounds: int, seed: int
) -> None:
    prior = TensorNormal(tasks, outputs, inputs, estimates_all)
    covariances = [torch.eye(size, dtype=torch.float64) for size in (tasks, outputs, inputs)]
    for number in range(rounds):
        weight_TOI = draw_weight(tasks, outputs, inputs, seed=seed + number)
        prior.estimate(weight_TOI)
        covariances = flip_flop(weight_TOI.detach(), covariances, prior.modes)
        for precision, covariance in zip(prior.precisions, covariances, strict=True):
            assert_close(precision, torch.linalg.inv(covariance))
            assert torch.equal(precision, precision.t())
        deviation_T = covariances[0].diagonal().sqrt()
        assert_close(prior.correlation_TT, covariances[0] / torch.outer(deviation_T, deviation_T))

    vector = weight_TOI.flatten()
    precision = torch.linalg.inv(torch.kron(covariances[0], torch.kron(covariances[1], covariances[2])))
    (gradient_TOI,) = torch.autograd.grad(prior(weight_TOI), weight_TOI)
    assert_close(prior(weight_TOI), vector @ precision @ vector / 2)
    assert_close(gradient_TOI.flatten(), precision @ vector)


def test_a_covariance_that_the_weights_cannot_tell_stays_the_identity() -> None:
    """A logit's inputs: 4 covariances of one output each for 2 tasks."""
    prior = TensorNormal(2, 1, 4, estimates_all=True)
    prior.estimate(draw_weight(2, 1, 4))
    assert torch.equal(prior.input_precision_II, torch.eye(4, dtype=torch.float64))
    assert torch.equal(prior.output_precision_OO, torch.ones(1, 1, dtype=torch.float64))
    assert (prior.correlation_TT[0, 1] != 0).all()

    prior = TensorNormal(2, 3, 3, estimates_all=False)
    prior.estimate(draw_weight(2, 3, 3))
    assert torch.equal(prior.input_precision_II, torch.eye(3, dtype=torch.float64))
    assert torch.equal(prior.output_precision_OO, torch.eye(3, dtype=torch.float64))
    assert (prior.correlation_TT[0, 1] != 0).all()


def test_tasks_of_like_weights_are_related() -> None:
    first_OI, third_OI = draw_weight(8, 8).detach(), draw_weight(8, 8, seed=1).detach()
    prior = TensorNormal(4, 8, 8, estimates_all=True)
    for _ in range(5):
        prior.estimate(torch.stack([first_OI, first_OI, -first_OI, third_OI]))
    same, opposite, unlike = prior.correlation_TT[0, 1:].tolist()
    assert same > 0.95
    assert opposite < -0.95
    assert abs(unlike) < 0.3


@pytest.mark.parametrize("scale", [0.0, 1e-150, 1e100])
def test_the_scale_of_the_weights_does_not_matter(scale: float) -> None:
    weight_TOI = draw_weight(2, 3, 4)
    prior, other = TensorNormal(2, 3, 4, estimates_all=True), TensorNormal(2, 3, 4, estimates_all=True)
    prior.estimate(scale * weight_TOI)
    if scale:
        other.estimate(weight_TOI)
    for found, expected in zip(prior.precisions, other.precisions, strict=True):
        assert_close(found, expected)


# ---- limits


def test_with_covariances_of_identity_the_penalty_is_weight_decay() -> None:
    head = MRNConfig(**KEYS, prior=0.3).build(3, names(3)).double()
    weights = [*(layer.weight for layer in head.towers.hidden.layers), head.towers.logit.weight]
    found = penalty(head)
    assert_close(found, 0.15 * sum((weight**2).sum() for weight in weights))
    found.backward()
    with_gradients = {name for name, parameter in head.named_parameters() if parameter.grad is not None}
    assert with_gradients == {"towers.logit.weight", "towers.hidden.layers.0.weight", "towers.hidden.layers.1.weight"}
    for weight in weights:
        assert_close(weight.grad, 0.3 * weight)


def test_without_a_weight_it_is_shared_bottom() -> None:
    """To the bit, whatever the covariances are."""
    head, bottom = build(MRNConfig(**KEYS, prior=0, prior_samples=10), 3), build(SharedBottomConfig(**KEYS), 3)
    assert head.period == 10
    assert head.penalties(head(draw_input()), ROW) == {}
    for found, expected in zip(backward(head), backward(bottom), strict=True):
        assert torch.equal(found, expected)
    for state in (per_module_state, per_module_gradients):
        ours, theirs = state(head), state(bottom)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_shown_are_the_correlations_of_tasks() -> None:
    head = build(MRNConfig(**KEYS, prior_samples=10), 3).eval()
    shown = head.fusion_weights(draw_input())
    assert len(shown) == len(head.fusion_names(["a", "b", "c"])) == 3
    for weights_BTT, prior in zip(shown, head.priors, strict=True):
        assert torch.equal(weights_BTT, prior.correlation_TT.expand_as(weights_BTT))
        assert_close(weights_BTT[0].diagonal(), torch.ones(3, dtype=torch.float64))
    assert (shown[0][0, 0, 1:] != 0).all()


def test_it_is_exported_for_any_number_of_rows() -> None:
    """What is shown of each row does not fix their number."""
    head = build(MRNConfig(**KEYS, prior_samples=10), 3).eval()
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(head, (draw_input(11).detach(),), dynamic_shapes=shapes, strict=False).module()
    for rows in (2, 33):
        assert_close(program(draw_input(rows).detach()), head(draw_input(rows)))


# ---- when they are due


def move(head: Head) -> None:
    """As a step of training would."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1.5).sin_()


def test_covariances_are_estimated_where_the_clock_passes_a_multiple() -> None:
    head = MRNConfig(**KEYS, prior_samples=100).build(3, names(3))
    changed = []
    for samples in (0, 64, 128, 192, 256, 256, 384, 640):
        before = estimates(head)
        head.begin(samples, seed=samples)
        after = estimates(head)
        if any(not torch.equal(before[name], after[name]) for name in before):
            changed.append(samples)
        move(head)
    assert changed == [128, 256, 384, 640]


@pytest.mark.parametrize("resumed_at", [64, 128, 192, 256])
def test_a_resumed_head_has_the_same_covariances(resumed_at: int) -> None:
    """To the bit: of a float32 head too they are kept in float64."""
    config = MRNConfig(**KEYS, prior_samples=128)
    whole = config.build(3, names(3))
    for samples in range(0, 320, 64):
        if samples == resumed_at:
            resumed = config.build(3, names(3))
            resumed.load_state_dict(whole.state_dict())
        if samples >= resumed_at:
            resumed.begin(samples, seed=0)
            move(resumed)
        whole.begin(samples, seed=0)
        move(whole)

    found, expected = estimates(resumed), estimates(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {buffer.dtype for buffer in expected.values()} == {torch.float64, torch.int64}
    assert torch.equal(penalty(resumed), penalty(whole))
    assert whole.period == 2
