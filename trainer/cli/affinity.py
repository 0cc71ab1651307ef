"""`adatt affinity`: which layers tasks should share, by what single-task networks make of the same rows."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.options import CheckpointOption, WhereOption, chosen_source, config_of

if TYPE_CHECKING:
    from rich.table import Table

    from trainer.analysis.affinity.affinity import Affinity


def affinity_command(  # noqa: PLR0913 - one parameter for each option
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Runs of one task each (head shared_bottom), or of head single_task."),
    ],
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Most FLOPs a row: a multiple of one trunk's, as in 1.5x, or a count like 400k."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=3, max=5000, metavar="K", help="Rows of the test set to compare on.")] = 1000,
    checkpoint: CheckpointOption = "latest",
    data: Annotated[str | None, typer.Option(metavar="URI", help="Dataset; the runs' test set if left out.")] = None,
    where: WhereOption = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write affinities and trees there, as JSON.")] = None,
) -> None:
    """Find a tree for the head `branched`: tasks share a level where their single-task networks are alike.

    Two networks are alike on a level if they find the same pairs of test rows alike (representation similarity
    analysis, 1: the same order of all pairs). With --budget the best trees are shown, and the first of them as [model];
    without, the best tree for each number of FLOPs.

    adatt affinity runs/click runs/like runs/hate --budget 1.5x
    """
    from data.errors import ExpectedError
    from data.storage.paths import path_of
    from trainer.distributed.torchrun_env import announced_ranks

    num_ranks = announced_ranks().size
    if num_ranks > 1:
        raise ExpectedError(f"adatt affinity is one process, and WORLD_SIZE is {num_ranks}; start it without torchrun")
    source = chosen_source(data, where)
    target = None if out is None else path_of("--out", out)

    from trainer.distributed.joining import joined

    with joined(config_of(runs[0]), {"command": "affinity"}, device="auto") as (_, world):
        from trainer.analysis.affinity.affinity import affinity_of_runs, toml_of, write_affinity
        from trainer.console import make_console

        affinity = affinity_of_runs(runs, checkpoint, source, rows, budget, world)
        if target is not None:
            write_affinity(affinity, target)

        console = make_console()
        for table in _affinity_tables(affinity):
            console.print(table)
        console.print(_tree_table(affinity))
        if affinity.budget is not None:
            sys.stdout.write(toml_of(affinity, affinity.trees[0]))
        elif target is None:
            console.print("with --budget the best tree within it is written as [model] of a config")
        if target is not None:
            console.print(f"written: {target}", soft_wrap=True)


def _affinity_tables(affinity: "Affinity") -> "list[Table]":
    from rich.table import Table

    tables = []
    for level, affinity_TT in enumerate(affinity.affinity_LTT.tolist()):
        table = Table(title=f"affinity, level {level}")
        table.add_column("task")
        for task in affinity.tasks:
            table.add_column(task, justify="right")
        for task, affinity_T in zip(affinity.tasks, affinity_TT, strict=True):
            table.add_row(task, *(f"{value:.3f}" for value in affinity_T))
        tables.append(table)
    return tables


def _tree_table(affinity: "Affinity") -> "Table":
    from rich.table import Table

    most = "" if affinity.budget is None else f" within {affinity.budget:,} FLOPs a row"
    looked_at = "all" if affinity.is_exhaustive else "by spectral clustering"
    table = Table(title=f"best of {affinity.num_trees:,} trees{most} ({looked_at}; {affinity.num_rows:,} rows)")
    for name in ("cost", "FLOPs a row", "× one trunk"):
        table.add_column(name, justify="right")
    for level in range(len(affinity.head.levels)):
        table.add_column(f"level {level}")
    for tree in affinity.trees:
        levels = [" | ".join(" ".join(group) for group in groups) for groups in affinity.names(tree)]
        table.add_row(f"{tree.cost:.4f}", f"{tree.flops:,}", f"{tree.flops / affinity.flops.least:.2f}", *levels)
    return table
