"""adashare: curriculum, what is kept in training and in evaluation, and where it is another head.

Shapes: B rows, T tasks, L blocks.
"""

import math

import pytest
import torch

from models.heads.related.adashare import KEEP, SKIP, AdaShare, AdaShareConfig
from models.heads.shared_bottom import SharedBottomConfig
from models.per_layer_state import load_per_module_state, per_module_state
from tests.models.heads import assert_close, backward, build, draw_input

CONFIG = AdaShareConfig(levels=((4,), (4,), (3, 4)), tower=(2,), warmup_samples=100, block_samples="10")
KEPT_TL = torch.tensor([[1, 0, 1], [0, 0, 1]])


def with_policy(config: AdaShareConfig, kept_TL: torch.Tensor) -> AdaShare:
    """A head whose scores say what each task keeps."""
    head = build(config, len(kept_TL))
    assert isinstance(head, AdaShare)
    with torch.no_grad():
        head.policy.slow_scores[..., KEEP] = kept_TL.double() / 10
        head.policy.slow_scores[..., SKIP] = (1 - kept_TL.double()) / 10
    return head


# ---- curriculum


@pytest.mark.parametrize(("samples", "blocks"), [(0, 0), (99, 0), (100, 1), (109, 1), (110, 2), (120, 3), (10**12, 3)])
def test_blocks_are_learned_one_after_another_from_the_last(samples: int, blocks: int) -> None:
    head = with_policy(CONFIG, KEPT_TL)
    for begin in (0, 10**9, samples):  # what was before does not matter
        head.begin(begin, seed=5)
    sampled_TL = (head.keep() > 0) & (head.keep() < 1)
    assert sampled_TL.sum(dim=1).tolist() == [blocks] * 2
    assert sampled_TL[:, 3 - blocks :].all()
    assert (head.keep()[:, : 3 - blocks] == 1).all()

    head(draw_input()).sum().backward()
    sum(head.penalties(torch.zeros(1, 2), torch.ones(1)).values()).backward()
    sparse = AdaShareConfig.model_fields["sparsity"].default
    learned_L = torch.arange(3) >= 3 - blocks
    assert head.penalties(torch.zeros(1, 2), torch.ones(1))["sparsity"].item() == pytest.approx(
        sparse / 3 * sum(math.log(1 + math.exp(2 * kept - 1)) for kept in KEPT_TL[:, learned_L].flatten().tolist())
    )
    assert head.policy.slow_scores.grad is not None


def test_in_the_warmup_nothing_is_learned() -> None:
    head = build(CONFIG.model_copy(update={"warmup_samples": 10**6}), 2)
    head(draw_input()).sum().backward()
    assert (head.policy.slow_scores.grad == 0).all()


def test_without_block_samples_all_blocks_are_learned_at_once() -> None:
    config = CONFIG.model_copy(update={"block_samples": 0})
    assert [config.learned_at(samples) for samples in (99, 100)] == [0, 3]


# ---- what is kept


def test_evaluation_keeps_what_the_scores_say_at_any_step() -> None:
    head = with_policy(CONFIG, KEPT_TL).eval()
    for samples in (0, 115, 10**9):
        head.begin(samples, seed=samples)
        (kept_BTL,) = head.fusion_weights(draw_input())
        assert torch.equal(kept_BTL, KEPT_TL.double().expand_as(kept_BTL))


def test_a_new_head_keeps_all_blocks() -> None:
    head = CONFIG.build(3, ["a", "b"]).eval()
    assert (head.keep() == 1).all()


def test_the_sharing_penalty_is_of_pairs_and_weighs_first_blocks_more() -> None:
    head = with_policy(CONFIG.model_copy(update={"sharing": 2.0}), torch.tensor([[1, 0, 1], [0, 0, 0], [1, 0, 1]]))
    apart = 1 / (1 + math.exp(-1)) - 1 / (1 + math.exp(1))
    pairs_by_weight = 2 * 3 / 3 + 2 * 1 / 3
    found = head.penalties(torch.zeros(1, 3), torch.ones(1))["sharing"].item()
    assert found == pytest.approx(2.0 * apart * pairs_by_weight)


# ---- limits


def test_tasks_that_skip_all_blocks_are_shared_bottom() -> None:
    head = with_policy(CONFIG, torch.zeros(3, 3)).eval()
    bottom = build(SharedBottomConfig(levels=((4,),), tower=(2,)), 3)
    state = per_module_state(head)
    kept = {name: part for name, part in state.items() if name.startswith("towers")}
    load_per_module_state(
        bottom, kept | {f"trunk.0.0.{leaf}": state[f"encoder.0.0.{leaf}"] for leaf in ("weight", "bias")}
    )
    for found, expected in zip(backward(head), backward(bottom), strict=True):
        assert_close(found, expected)


def test_a_task_does_not_feel_blocks_that_it_skips() -> None:
    head = with_policy(CONFIG.model_copy(update={"activation": "tanh"}), KEPT_TL).eval()
    before = head(draw_input())
    with torch.no_grad():
        head.blocks[0].last.weight.add_(1)
    after = head(draw_input())
    assert torch.equal(after[:, 1], before[:, 1])
    assert not torch.equal(after[:, 0], before[:, 0])
