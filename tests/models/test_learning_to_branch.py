"""learning_to_branch: the warm-up, the tree of evaluation, and where it is another head.

Shapes: B rows, U children, E nodes of a level.
"""

import pytest
import torch

from models.heads.base import Head
from models.heads.related.learning_to_branch import LearningToBranch, LearningToBranchConfig
from models.heads.shared_bottom import SharedBottomConfig, SingleTaskConfig
from models.per_layer_state import State, load_per_module_state, per_module_state
from tests.models.heads import assert_close, backward, build, draw_input

LEVELS = ((4, 3), (2,))
CONFIG = LearningToBranchConfig(levels=LEVELS, tower=(2,), experts=3, warmup_samples=50, activation="tanh")
TREE = ((1, 1, 0), (0, 2))
"""The parent of each node of the second level, and that of each task."""


def with_tree(config: LearningToBranchConfig, tree: tuple[tuple[int, ...], ...]) -> LearningToBranch:
    """A head whose scores say this tree."""
    head = build(config, len(tree[-1]))
    assert isinstance(head, LearningToBranch)
    with torch.no_grad():
        for branching, parents in zip(head.branches, tree, strict=True):
            branching.parents.slow_scores.copy_(torch.eye(config.experts)[list(parents)])
    return head


# ---- schedule


def test_in_the_warmup_parents_are_drawn_but_not_learned() -> None:
    head = build(CONFIG, 2)
    for samples, learns in ((49, False), (50, True), (10**9, True), (0, False)):
        head.begin(samples, seed=1)
        head.zero_grad()
        head(draw_input()).sum().backward()
        for branching in head.branches:
            assert ((branching.parents() > 0) & (branching.parents() < 1)).all()
            assert (branching.parents.slow_scores.grad != 0).any() == learns


def test_levels_have_noise_of_their_own() -> None:
    head = build(CONFIG, 3)
    first, second = (branching.parents.noise for branching in head.branches)
    assert first.shape == second.shape
    assert (first != second).all()


# ---- the tree


def test_evaluation_has_the_tree_of_the_scores_at_any_step() -> None:
    head = with_tree(CONFIG, TREE).eval()
    for samples in (0, 10**9):
        head.begin(samples, seed=samples)
        for weights_BUE, parents in zip(head.fusion_weights(draw_input()), TREE, strict=True):
            expected_UE = torch.eye(3, dtype=torch.float64)[list(parents)]
            assert torch.equal(weights_BUE, expected_UE.expand_as(weights_BUE))


def test_names_are_those_of_nodes_and_tasks() -> None:
    nodes = ["node 0", "node 1", "node 2"]
    found = CONFIG.build(3, ["a", "b"]).fusion_names(["a", "b"])
    assert [(names.units, names.experts) for names in found] == [(nodes, nodes), (["a", "b"], nodes)]


@pytest.mark.parametrize(("level", "node", "felt"), [(0, 1, [0]), (0, 0, [1]), (0, 2, []), (1, 1, []), (1, 2, [1])])
def test_a_task_feels_its_own_branch_alone(level: int, node: int, felt: list[int]) -> None:
    head = with_tree(CONFIG, TREE).eval()
    before_BT = head(draw_input())
    with torch.no_grad():
        head.levels[level].layers[0].weight[node].add_(1)
    changed_BT = head(draw_input()) != before_BT
    assert [task for task in range(2) if changed_BT[:, task].any()] == felt


# ---- limits


def renamed(head: Head, stems: dict[str, str]) -> State:
    """Parameters under new stems, and the towers."""
    state = per_module_state(head)
    found = {name: part for name, part in state.items() if name.startswith("towers")}
    for new, old in stems.items():
        found |= {f"{new}.{leaf}": state[f"{old}.{leaf}"] for leaf in ("weight", "bias")}
    return found


def stems_of(tree_of_tasks: list[list[int]]) -> dict[str, str]:
    """Layers of trunks, and the layers of the nodes that they are."""
    layers = [(0, 0), (0, 1), (1, 0)]
    return {
        f"trunk.{trunk}.{number}": f"levels.{level}.{nodes[level]}.{layer}"
        for trunk, nodes in enumerate(tree_of_tasks)
        for number, (level, layer) in enumerate(layers)
    }


def assert_same_head(head: Head, other: Head, stems: dict[str, str]) -> None:
    load_per_module_state(other, renamed(head, stems))
    for found, expected in zip(backward(head), backward(other), strict=True):
        assert_close(found, expected)


def test_a_new_head_is_evaluated_as_shared_bottom() -> None:
    head = build(CONFIG, 3).eval()
    for branching in head.branches:
        branching.parents.reset_parameters()
    bottom = build(SharedBottomConfig(levels=LEVELS, tower=(2,), activation="tanh"), 3)
    assert_same_head(head, bottom, stems_of([[0, 0]]))


@pytest.mark.parametrize("sampling", ["soft", "hard"])
def test_with_one_node_a_level_it_is_shared_bottom_in_training_too(sampling: str) -> None:
    head = build(CONFIG.model_copy(update={"experts": 1, "sampling": sampling}), 3)
    bottom = build(SharedBottomConfig(levels=LEVELS, tower=(2,), activation="tanh"), 3)
    assert_same_head(head, bottom, stems_of([[0, 0]]))


def test_tasks_with_branches_of_their_own_are_single_task() -> None:
    head = with_tree(CONFIG, ((2, 0, 1), (0, 1, 2))).eval()
    single = build(SingleTaskConfig(levels=LEVELS, tower=(2,), activation="tanh"), 3)
    assert_same_head(head, single, stems_of([[2, 0], [0, 1], [1, 2]]))
