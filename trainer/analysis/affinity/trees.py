"""The search for the tree of a branched network (Vandenhende et al., BMVC 2020) under a budget of FLOPs.

    d_{t,u}^l = 1 - A_{t,u}^l                               A^l: affinity of two tasks on level l
    cost      = Σ_l  mean over the groups g of level l of   max_{t,u in g} d_{t,u}^l          (0 for a task alone)

From the last level to the first, the groups of the level behind are put together in every way, if there are few trees:
then the cheapest is found for certain. For many tasks, the groups of a level come from spectral clustering (Ng, Jordan
and Weiss, NIPS 2001), once for each number of groups, and a beam of trees goes on.

Shapes: L levels, T tasks, G groups, K clusters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np
from scipy.cluster.vq import kmeans, vq

from trainer.analysis.affinity.similarity import Floats

Group = tuple[int, ...]
Groups = tuple[Group, ...]
MOST_TREES = 200_000
"""So many are all looked at, in seconds: up to 7 tasks on 3 levels, 8 on 2."""
BEAM = 100
"""Else so many go on to the level before, besides the best of each number of FLOPs."""


@dataclass(frozen=True)
class Flops:
    """Of the forward pass of a branched head, per row."""

    of_level: tuple[int, ...]
    """For each group of the level."""
    of_towers: int

    @property
    def least(self) -> int:
        """Of one group on every level."""
        return sum(self.of_level) + self.of_towers


@dataclass(frozen=True, order=True)
class Tree:
    """Groups of tasks for the levels from some level to the last, best first in order."""

    cost: float
    flops: int
    """With the towers."""
    levels: tuple[Groups, ...]


class TreeSearch:
    """Trees of tasks that share levels where their affinities are high."""

    def __init__(self, affinity_LTT: Floats, flops: Flops) -> None:
        self._distance_LTT = 1 - affinity_LTT
        self._flops = flops
        self.num_levels, self.num_tasks, _ = affinity_LTT.shape
        self.is_exhaustive = num_trees(self.num_tasks, self.num_levels) <= MOST_TREES
        self._cost = cache(self._cost_of_level)
        self._candidates = cache(self._candidates_of_level)

    def run(self, budget: int | None = None) -> list[Tree]:
        """The trees of at most `budget` FLOPs a row that were looked at, best first; [] if none has so few."""
        alone = tuple((task,) for task in range(self.num_tasks))
        trees = [Tree(0.0, self._flops.of_towers, ())]
        for level in reversed(range(self.num_levels)):
            rest = sum(self._flops.of_level[:level])  # one group on each level before
            extended = [
                longer
                for tree in trees
                for longer in self._extensions(tree, level, tree.levels[0] if tree.levels else alone)
                if budget is None or longer.flops + rest <= budget
            ]
            trees = extended if self.is_exhaustive else _beam(extended)
        return sorted(trees)

    def _extensions(self, tree: Tree, level: int, groups: Groups) -> Iterator[Tree]:
        """The tree with one more level, the one before `groups`."""
        for merged in self._candidates(level, groups):
            flops = tree.flops + len(merged) * self._flops.of_level[level]
            yield Tree(tree.cost + self._cost(level, merged), flops, (merged, *tree.levels))

    def _candidates_of_level(self, level: int, groups: Groups) -> list[Groups]:
        if self.is_exhaustive:
            return [_merged(groups, partition) for partition in partitions(len(groups))]
        similarity_GG = self._similarity(level, groups)
        clusterings = [spectral_clustering(similarity_GG, clusters) for clusters in range(1, len(groups) + 1)]
        return [_merged(groups, partition) for partition in dict.fromkeys(clusterings)]

    def _similarity(self, level: int, groups: Groups) -> Floats:
        """Between 0 and 1: of two groups the mean over their tasks."""
        similarity_TT = 1 - self._distance_LTT[level] / 2
        member_GT = np.array([[task in group for task in range(self.num_tasks)] for group in groups], np.float64)
        member_GT /= member_GT.sum(axis=1, keepdims=True)
        similarity_GG: Floats = member_GT @ similarity_TT @ member_GT.T
        return similarity_GG

    def _cost_of_level(self, level: int, groups: Groups) -> float:
        largest = [float(self._distance_LTT[level][np.ix_(group, group)].max()) for group in groups if len(group) > 1]
        return sum(largest) / len(groups)


def frontier(trees: list[Tree]) -> list[Tree]:
    """Trees than which none is better at as few FLOPs; fewest FLOPs first."""
    best: list[Tree] = []
    for tree in sorted(trees, key=lambda tree: (tree.flops, tree.cost)):
        if not best or tree.cost < best[-1].cost:
            best.append(tree)
    return best


def num_trees(num_tasks: int, num_levels: int) -> int:
    """How many trees there are: partitions of the tasks on the last level, of its groups on the one before, …"""
    if num_levels == 0:
        return 1
    return sum(_stirling(num_tasks, groups) * num_trees(groups, num_levels - 1) for groups in range(1, num_tasks + 1))


@cache
def _stirling(items: int, parts: int) -> int:
    """Partitions of `items` into so many parts."""
    signed = sum((-1) ** (parts - chosen) * comb(parts, chosen) * chosen**items for chosen in range(parts + 1))
    factorial = int(np.prod(range(1, parts + 1), dtype=object))
    return signed // factorial


def partitions(num_items: int) -> Iterator[Groups]:
    """All partitions of 0, 1, …; groups in the order of their first items."""
    if num_items == 0:
        yield ()
        return
    last = num_items - 1
    for smaller in partitions(last):
        for index, group in enumerate(smaller):
            yield (*smaller[:index], (*group, last), *smaller[index + 1 :])
        yield (*smaller, (last,))


def spectral_clustering(similarity_GG: Floats, clusters: int) -> Groups:
    """At most `clusters` groups of what is similar; similarities are positive. The same at every call."""
    if clusters == len(similarity_GG):
        return tuple((item,) for item in range(clusters))
    scale_G = 1 / np.sqrt(similarity_GG.sum(axis=1))
    _, vectors_GG = np.linalg.eigh(scale_G[:, None] * similarity_GG * scale_G)
    leading_GK = vectors_GG[:, -clusters:]
    points_GK = leading_GK / np.linalg.norm(leading_GK, axis=1, keepdims=True)
    centres_KK, _ = kmeans(points_GK, clusters, rng=np.random.default_rng(0))
    labels_G = vq(points_GK, centres_KK)[0].tolist()
    return tuple(
        tuple(item for item, label in enumerate(labels_G) if label == of_group) for of_group in dict.fromkeys(labels_G)
    )


def _merged(groups: Groups, partition: Groups) -> Groups:
    """The groups with those of each part put together, in order of their first tasks."""
    return tuple(sorted(tuple(sorted(task for index in part for task in groups[index])) for part in partition))


def _beam(trees: list[Tree]) -> list[Tree]:
    """The best, and the best of each number of FLOPs: under a budget, what has few may have more later."""
    ordered = sorted(trees)
    of_flops: dict[int, Tree] = {}
    for tree in ordered:
        of_flops.setdefault(tree.flops, tree)
    return list(dict.fromkeys([*ordered[:BEAM], *of_flops.values()]))
