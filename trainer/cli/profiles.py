"""`adatt stats`, `inspect` and `init`: what is in a dataset, what to know of it, and a first config for it."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.options import JsonOption, WhereOption, data_source

if TYPE_CHECKING:
    from trainer.proposal.stats import Stats

LabelOption = Annotated[
    list[str],
    typer.Option("--label", metavar="COLUMN", help="A column to predict; once for each task."),
]


def stats_command(
    source: Annotated[str, typer.Argument(metavar="CONFIG|URI", help="A config, for its training data, or a dataset.")],
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a dataset once and tell what is in each column, in constant memory.

    Rows, nulls, range, mean, deviation, quantiles (of 32,768 rows drawn by their numbers), different values (exact up
    to a million), the most frequent ones, lengths of lists; the share of 1 in columns of 0 and 1 by time window, which
    is a folder or file; of a config's hashed ids, how many share a row with another; and columns that cannot be read,
    with the reason. Counts are stored beside the dataset, for vocabularies.

    On several processes: torchrun --nproc-per-node 2 -m trainer stats CONFIG|URI
    """
    from trainer.distributed.joining import joined
    from trainer.proposal.stats import find_stats, request_of

    if where is not None:
        data_source(source, where)
    with joined(request_of(source, where), {"command": "stats"}, device="cpu") as (request, world):
        found = find_stats(request, world)
        if found is None:
            return
        if as_json:
            sys.stdout.writelines(json.dumps(asdict(entry)) + "\n" for entry in found.summaries)
            return
        _print_stats(found)


def _print_stats(found: "Stats") -> None:
    from trainer.console import make_console
    from trainer.logging.profile_table import profile_table, rates_table
    from trainer.proposal.hashed import sharing_table

    console = make_console()
    tables = (
        profile_table(found.manifest, found.summaries),
        rates_table(found.summaries),
        sharing_table(found.sharing),
    )
    for table in tables:
        if table is not None:
            console.print(table)
    for path, reason in found.profile.looked.left_out.items():
        console.print(f"not read: {path} ({reason})", soft_wrap=True)
    where = "could not be stored" if found.stored is None else f"stored in {found.stored}"
    console.print(f"counts {where}", soft_wrap=True)


def inspect_command(
    source: Annotated[str, typer.Argument(metavar="URI", help="A dataset.")],
    config: Annotated[
        str | None, typer.Option(metavar="CONFIG", help="Look at it as this config does: ids, tables, labels.")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--label", metavar="COLUMN", help="A label, where there is no config.")
    ] = None,
    test: Annotated[str | None, typer.Option(metavar="URI", help="Test data, to find rows that are in both.")] = None,
    where: WhereOption = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write the same as a page.")] = None,
) -> None:
    """A first look at a dataset: its columns, and what to know before training on it.

    Columns without values, labels without positives, columns that give a label away, ids that are not in their tables,
    hashed ids that share rows, rows that repeat others or are in the test data too, sizes of row groups.
    """
    from data.storage.paths import path_of
    from trainer.config.load import load_config
    from trainer.console import make_console
    from trainer.proposal.inspect import inspect_dataset, inspection

    target = path_of("--html", html) if html is not None else None
    loaded = load_config(config) if config is not None else None
    found = inspect_dataset(
        data_source(source, where), None if test is None else data_source(test, None), loaded, labels
    )
    console = make_console(record=target is not None)
    for part in inspection(found):
        console.print(part, soft_wrap=isinstance(part, str))
    if target is not None:
        console.save_html(str(target), clear=False)


def init_command(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Training data; a folder with train/ and test/ will do.")],
    labels: LabelOption,
    out: Annotated[str, typer.Option(metavar="FILE", help="Config to write.")],
    test: Annotated[str | None, typer.Option(metavar="URI", help="Test data, if it lies elsewhere.")] = None,
    where: WhereOption = None,
) -> None:
    """Write a config that trains at once: features by type and number of values, tables, tasks, milestones.

    The dataset is read once. Test data is --test, or test/ beside train/, or the last tenth of the days where folders
    are dated. Comments say why each column was taken as it is, and which were left out.
    """
    from data.storage.paths import path_of
    from trainer.console import make_console
    from trainer.proposal.inspect import profiled
    from trainer.proposal.propose import propose, write_proposal
    from trainer.proposal.split import split_dataset

    target = path_of("--out", out)
    data_source(uri, where)
    split = split_dataset(uri, test, where)
    manifest, profile = profiled(split.train)
    proposal = propose(manifest, profile, labels, split)
    write_proposal(proposal, target)
    make_console().print(f"{proposal.summary}\nwritten: {out}; go on with: adatt train {out}", soft_wrap=True)
