"""The search for trees against all trees, by other means."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.analysis.affinity import trees
from trainer.analysis.affinity.similarity import Floats
from trainer.analysis.affinity.trees import Flops, TreeSearch, frontier, num_trees, partitions, spectral_clustering


def drawn_affinity(seed: int, levels: int, tasks: int) -> Floats:
    drawn = np.random.Generator(np.random.Philox(seed)).uniform(-1, 1, (levels, tasks, tasks))
    affinity_LTT = (drawn + drawn.transpose(0, 2, 1)) / 2
    affinity_LTT[:, range(tasks), range(tasks)] = 1
    return affinity_LTT


def all_trees(levels: int, tasks: int) -> list[tuple[frozenset[frozenset[int]], ...]]:
    """By labels of tasks, level by level; kept where no task meets another again."""
    labelled = product(range(tasks), repeat=tasks)
    splits = {
        frozenset(frozenset(np.flatnonzero(np.equal(labels, group)).tolist()) for group in set(labels))
        for labels in labelled
    }
    return [
        chain
        for chain in product(splits, repeat=levels)
        if all(any(fine <= coarse for coarse in before) for before, after in pairwise(chain) for fine in after)
    ]


def cost_of(affinity_LTT: Floats, tree: tuple[frozenset[frozenset[int]], ...]) -> float:
    total = 0.0
    for affinity_TT, groups in zip(affinity_LTT, tree, strict=True):
        largest = [max(1 - affinity_TT[t, u] for t in group for u in group) for group in groups]
        total += float(np.mean(largest))
    return total


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(1, 2), (2, 3), (1, 4), (3, 3), (2, 4)]), st.floats(1, 3))
def test_the_best_tree_within_a_budget_is_the_best_of_all(seed: int, size: tuple[int, int], times: float) -> None:
    levels, tasks = size
    affinity_LTT = drawn_affinity(seed, levels, tasks)
    flops = Flops(tuple(range(7, 7 + levels)), 3)
    budget = int(times * flops.least)
    expected = []
    for tree in all_trees(levels, tasks):
        of_tree = 3 + sum(len(groups) * of_group for groups, of_group in zip(tree, flops.of_level, strict=True))
        if of_tree <= budget:
            expected.append((cost_of(affinity_LTT, tree), of_tree))

    search = TreeSearch(affinity_LTT, flops)
    found = search.run(budget)
    assert search.is_exhaustive
    assert [tree.cost for tree in found] == pytest.approx(sorted(cost for cost, _ in expected))
    assert sorted(tree.flops for tree in found) == sorted(of_tree for _, of_tree in expected)
    for tree in found:
        assert cost_of(affinity_LTT, tuple(frozenset(map(frozenset, level)) for level in tree.levels)) == pytest.approx(
            tree.cost
        )


def test_numbers_of_trees() -> None:
    assert [num_trees(tasks, 1) for tasks in range(1, 8)] == [1, 2, 5, 15, 52, 203, 877]  # Bell numbers
    for tasks, levels in ((2, 3), (3, 2), (4, 2), (3, 3)):
        assert num_trees(tasks, levels) == len(all_trees(levels, tasks))
        assert len(TreeSearch(drawn_affinity(0, levels, tasks), Flops((1,) * levels, 1)).run()) == num_trees(
            tasks, levels
        )
    assert num_trees(7, 3) <= trees.MOST_TREES < num_trees(8, 3)
    assert len(set(partitions(5))) == 52


def test_the_frontier_has_the_best_tree_of_every_budget() -> None:
    affinity_LTT = drawn_affinity(3, 2, 4)
    flops = Flops((10, 4), 2)
    search = TreeSearch(affinity_LTT, flops)
    best = frontier(search.run())
    assert best[0].flops == flops.least
    assert best[-1].cost == 0
    for budget in range(flops.least, 60):
        affordable = [tree for tree in best if tree.flops <= budget]
        assert affordable[-1].cost == search.run(budget)[0].cost
    assert search.run(flops.least - 1) == []


def blocks(sizes: list[int], seed: int) -> tuple[Floats, list[set[int]]]:
    """Affinities that are high inside groups alone, and the groups; tasks in drawn order."""
    random = np.random.Generator(np.random.Philox(seed))
    of_task = random.permutation(np.repeat(range(len(sizes)), sizes))
    affinity_TT = np.where(of_task[:, None] == of_task, 0.8, 0.1) + random.uniform(-0.05, 0.05, (len(of_task),) * 2)
    affinity_TT = (affinity_TT + affinity_TT.T) / 2
    np.fill_diagonal(affinity_TT, 1)
    return affinity_TT, [set(np.flatnonzero(of_task == group).tolist()) for group in range(len(sizes))]


@pytest.mark.parametrize("seed", range(5))
def test_spectral_clustering_finds_groups(seed: int) -> None:
    affinity_TT, groups = blocks([4, 3, 5], seed)
    found = spectral_clustering((1 + affinity_TT) / 2, 3)
    assert sorted(map(set, found), key=min) == sorted(groups, key=min)
    assert spectral_clustering((1 + affinity_TT) / 2, 1) == (tuple(range(12)),)
    assert spectral_clustering((1 + affinity_TT) / 2, 12) == tuple((task,) for task in range(12))


@pytest.mark.parametrize("seed", range(3))
def test_many_tasks_are_searched_by_spectral_clustering(seed: int) -> None:
    affinity_TT, groups = blocks([4, 3, 5], seed)
    all_alike = np.where(np.eye(12, dtype=bool), 1, 0.95)
    affinity_LTT = np.stack([all_alike, affinity_TT, affinity_TT])
    flops = Flops((50, 10, 5), 3)
    search = TreeSearch(affinity_LTT, flops)
    best = search.run(50 + 3 * 10 + 3 * 5 + 3)[0]
    assert not search.is_exhaustive
    assert best.levels[0] == (tuple(range(12)),)
    for level in best.levels[1:]:
        assert sorted(map(set, level), key=min) == sorted(groups, key=min)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_the_beam_is_never_better_than_all_and_keeps_to_the_rules(seed: int) -> None:
    affinity_LTT = drawn_affinity(seed, 2, 5)
    flops = Flops((9, 4), 2)
    exact, beam = TreeSearch(affinity_LTT, flops), TreeSearch(affinity_LTT, flops)
    beam.is_exhaustive = False
    for budget in (flops.least, 30, 60, 1000):
        found = beam.run(budget)
        assert set(found) <= set(exact.run(budget))
        assert found
    assert beam.run()[0].cost == 0  # all tasks apart
