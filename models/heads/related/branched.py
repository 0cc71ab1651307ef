"""Branched multi-task networks (Vandenhende, Georgoulis, De Brabandere and Van Gool, BMVC 2020): a tree of layers.

    g    = group of tasks on level l;  p(g) = the group of level l - 1 that holds it
    f_g^l = perceptron of group g, on f_{p(g)}^{l-1}                        (x on the first level)
    logit of t = tower of f_g^L, g = the group of task t on the last level

Tasks share a layer as long as they are in one group; groups only part from level to level. The tree is given. In the
paper it comes from single-task networks: tasks whose networks order pairs of inputs alike at a depth share that depth.
`adatt affinity` finds one so.

Shapes: B rows, F features, T tasks, G groups of a level, H its width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from models.heads.base import Head, HeadConfig
from models.layers import GroupedMLP, Towers

Groups = tuple[tuple[str, ...], ...]
"""Tasks by name, in groups."""
WAY_OUT = 'write one list of groups for each of model.levels: [[["click", "like"]], [["click"], ["like"]]]'


class BranchedConfig(HeadConfig):
    """A tree of layers: tasks share them until their branches part."""

    head: Literal["branched"] = "branched"
    tree: tuple[Groups, ...] = ()
    """For each level the groups of tasks that share it, by name: [[["click", "like"]], [["click"], ["like"]]] is one
    trunk, then a branch for each. Tasks that have parted stay apart. [] is one group on every level: shared_bottom."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head; raises ValueError for a tree of other levels or tasks, or whose branches meet again."""
        return Branched(self, num_features, self.groups(tasks))

    def groups(self, tasks: Sequence[str]) -> list[list[list[int]]]:
        """The tree by numbers of tasks. On every level the branches of a group are neighbours, by their first task."""
        tree = self.tree or ((tuple(tasks),),) * len(self.levels)
        if len(tree) != len(self.levels):
            raise ValueError(f"model.tree has {len(tree)} levels, and model.levels {len(self.levels)}; {WAY_OUT}")

        parents = [list(range(len(tasks)))]
        levels = []
        for level, groups in enumerate(tree):
            _check_tasks(level, groups, tasks)
            branches = sorted(sorted(list(tasks).index(name) for name in group) for group in groups)
            parents = [branch for parent in parents for branch in branches if set(branch) <= set(parent)]
            if len(parents) < len(branches):
                (meeting, *_) = (branch for branch in branches if branch not in parents)
                raise ValueError(
                    f"model.tree: level {level} has {[tasks[task] for task in meeting]} in one group, and the level "
                    "before has them in several; tasks that have parted stay apart"
                )
            levels.append(parents)
        return levels


def _check_tasks(level: int, groups: Groups, tasks: Sequence[str]) -> None:
    named = [name for group in groups for name in group]
    for name in named:
        if name not in tasks:
            raise ValueError(f"model.tree: level {level} names {name!r}; the tasks with a logit are {', '.join(tasks)}")
        if named.count(name) > 1:
            raise ValueError(f"model.tree: level {level} names {name!r} twice; a task is in one group of a level")
    for name in tasks:
        if name not in named:
            raise ValueError(f"model.tree: level {level} has no group with task {name!r}; {WAY_OUT}")
    if not all(groups):
        raise ValueError(f"model.tree: level {level} has an empty group; remove it")


class Branched(Head):
    """The head. Kept for backward: the input of each level, and its outputs, once for each group."""

    group_T: torch.Tensor
    """Number of each task's group on the last level."""

    def __init__(self, config: BranchedConfig, num_features: int, groups: list[list[list[int]]]) -> None:
        super().__init__()
        self.groups = groups
        self.levels = nn.ModuleList()
        counts = [1] * len(groups[0])
        inputs = num_features
        for level, layers in enumerate(config.levels):
            if level:
                counts = [sum(set(branch) <= set(parent) for branch in groups[level]) for parent in groups[level - 1]]
            self.levels.append(GroupedMLP(counts, inputs, layers, config.activation, config.dropout))
            inputs = layers[-1]

        last = {task: number for number, group in enumerate(groups[-1]) for task in group}
        self.register_buffer("group_T", torch.tensor([last[task] for task in range(len(last))]), persistent=False)
        self.towers = Towers(len(last), inputs, config.tower, config.activation, config.dropout)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        x = features_BF
        for level in self.levels:
            x = level(x)  # x_BGH
        return self.towers(x.index_select(1, self.group_T))

    def branch_names(self, level: int, tasks: Sequence[str]) -> list[str]:
        """The tasks of each group."""
        return [" and ".join(sorted(tasks[task] for task in group)) for group in self.groups[level]]
