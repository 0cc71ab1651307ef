"""From single-task runs to a tree for the head `branched`: affinities of tasks per level, and the trees they suggest.

Shapes: L levels, T tasks.
"""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from data.counts import parse_count
from data.discovery.source import Source
from data.storage.files import replace_text
from models.columns import Columns
from models.cost import head_cost
from models.heads.base import HeadConfig
from models.heads.related.branched import BranchedConfig
from trainer.analysis.affinity.networks import Networks, read_networks
from trainer.analysis.affinity.similarity import Floats, affinities
from trainer.analysis.affinity.trees import Flops, Tree, TreeSearch, frontier
from trainer.config.load import toml_text
from trainer.distributed.world import World
from trainer.errors import DISK_FULL, ConfigError

MOST_SHOWN = 5
"""Trees within the budget that are told of: the best, and the next ones."""


@dataclass(frozen=True)
class Affinity:
    """What single-task networks have in common, and trees that follow."""

    head: BranchedConfig
    """Without a tree."""
    tasks: list[str]
    num_rows: int
    affinity_LTT: Floats
    flops: Flops
    budget: int | None
    trees: list[Tree]
    """Within the budget, best first; without one, the best for each number of FLOPs, fewest first."""
    num_trees: int
    """That were looked at, as far as the budget allows."""
    is_exhaustive: bool
    """Whether these are all that there are."""

    def head_of(self, tree: Tree) -> BranchedConfig:
        """The head with this tree."""
        return self.head.model_copy(update={"tree": self.names(tree)})

    def names(self, tree: Tree) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """The groups by names of tasks."""
        return tuple(tuple(tuple(self.tasks[task] for task in group) for group in groups) for groups in tree.levels)


def affinity_of_runs(
    runs: list[str], checkpoint: str, data: Source | None, num_rows: int, budget: str | None, world: World
) -> Affinity:
    """The affinities of the runs' tasks on rows of their test set, or of `data`, and trees of at most `budget` FLOPs.

    Raises an ExpectedError if the runs cannot be compared, or no tree has so few FLOPs.
    """
    parsed = parse_budget(budget)
    networks = read_networks(runs, checkpoint, data, num_rows, world)
    affinity_LTT = np.stack([_of_level(networks, level) for level in range(len(networks.config.model.levels))])
    return suggest(
        networks.config.model, networks.config.columns, networks.tasks, affinity_LTT, parsed, networks.num_rows
    )


def suggest(
    model: HeadConfig,
    columns: Columns,
    tasks: list[str],
    affinity_LTT: Floats,
    budget: int | Decimal | None,
    num_rows: int,
) -> Affinity:
    """Trees for the affinities; `budget`: FLOPs a row, or as a Decimal a multiple of those of one trunk."""
    kept = {key: getattr(model, key) for key in HeadConfig.model_fields}
    head = BranchedConfig(**kept)
    flops = flops_of(head, columns, tasks)
    most = int(budget * flops.least) if isinstance(budget, Decimal) else budget
    if most is not None and most < flops.least:
        raise ConfigError(
            f"--budget allows {most:,} FLOPs a row, but one trunk for all tasks takes {flops.least:,}; "
            f"allow 1x or more ({len(tasks)} networks: {flops.of_towers + len(tasks) * sum(flops.of_level):,})"
        )
    search = TreeSearch(affinity_LTT, flops)
    found = search.run(most)
    shown = frontier(found) if most is None else found[:MOST_SHOWN]
    return Affinity(head, tasks, num_rows, affinity_LTT, flops, most, shown, len(found), search.is_exhaustive)


def flops_of(head: BranchedConfig, columns: Columns, tasks: list[str]) -> Flops:
    """What the head takes, level by level: how much a head takes more whose tasks part one level earlier."""
    num_levels = len(head.levels)
    one_group, alone = (tuple(tasks),), tuple((task,) for task in tasks)

    def forward_flops(apart: int) -> int:
        tree = (one_group,) * (num_levels - apart) + (alone,) * apart
        return head_cost(head.model_copy(update={"tree": tree}), columns, tasks).forward_flops

    of_heads = [forward_flops(apart) for apart in range(num_levels + 1)]
    more = np.diff(of_heads) // (len(tasks) - 1)
    of_level = tuple(int(flops) for flops in reversed(more))
    return Flops(of_level, of_heads[0] - sum(of_level))


def parse_budget(text: str | None) -> int | Decimal | None:
    """'1.5x' → Decimal('1.5'), '400k' → 400_000; raises ConfigError if it is neither."""
    if text is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?x", text, re.ASCII):
        return Decimal(text.removesuffix("x"))
    try:
        return parse_count(text)
    except ValueError as error:
        raise ConfigError(
            f"--budget {text!r} is no number of FLOPs; write a multiple of one trunk's, as in 1.5x, or FLOPs a row, as "
            "in 400k"
        ) from error


def _of_level(networks: Networks, level: int) -> Floats:
    """affinity_TT; raises ConfigError if a task's network finds all rows alike."""
    affinity_TT = affinities([of_task[level] for of_task in networks.activations])
    for task, has_order in zip(networks.tasks, ~np.isnan(affinity_TT.diagonal()), strict=True):
        if not has_order:
            raise ConfigError(
                f"task {task!r}: level {level} of its network finds all pairs of {networks.num_rows} rows equally "
                "alike; give the level more than one unit, or train longer, and compare three rows or more"
            )
    return affinity_TT


def toml_of(affinity: Affinity, tree: Tree) -> str:
    """The head with the tree, as the section of a config."""
    head = affinity.head
    lines = ["[model]", 'head = "branched"', f"levels = {json.dumps(head.levels)}", f"tower = {json.dumps(head.tower)}"]
    if head.activation != BranchedConfig().activation:
        lines.append(f"activation = {toml_text(head.activation)}")
    if head.dropout:
        lines.append(f"dropout = {head.dropout}")
    groups = [json.dumps(level, ensure_ascii=False) for level in affinity.names(tree)]
    return "\n".join([*lines, "tree = [", *(f"    {level}," for level in groups), "]"]) + "\n"


def write_affinity(affinity: Affinity, path: Path) -> None:
    """Writes all of it as JSON; raises ConfigError if the file cannot be written."""
    try:
        replace_text(path, json.dumps(record_of(affinity), indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise ConfigError(f"--out {str(path)!r} cannot be written ({error.strerror}); name a file") from error


def record_of(affinity: Affinity) -> dict[str, Any]:
    """All of it, as JSON can hold it."""
    trees = [{"tree": affinity.names(tree), "cost": tree.cost, "flops_per_row": tree.flops} for tree in affinity.trees]
    return {
        "tasks": affinity.tasks,
        "rows": affinity.num_rows,
        "affinity": affinity.affinity_LTT.tolist(),
        "budget_flops_per_row": affinity.budget,
        "all_trees": affinity.is_exhaustive,
        "trees": trees,
    }
