"""`adatt import` and `synth`: the commands that write datasets."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from data.errors import ExpectedError
from data.storage.paths import path_of
from trainer.logging.tables import number_cell

if TYPE_CHECKING:
    from data.importers.kuairand import ImportSummary
    from data.synthetic.dataset import SynthSummary

importers = typer.Typer(help="Turns the official files of a public dataset into Parquet.")

TaskGroup = Literal["engagement-consumption", "two-consumption", "five"]


def synth_command(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write: OUT/train, OUT/test, OUT/schema.json.")],
    samples: Annotated[str, typer.Option(metavar="COUNT", help="Training rows: 300k, 3M …")],
    test_samples: Annotated[str, typer.Option(metavar="COUNT", help="Test rows.")] = "200k",
    tasks: Annotated[
        TaskGroup, typer.Option(metavar="GROUP", help="engagement-consumption, two-consumption or five.")
    ] = "five",
    validation_samples: Annotated[
        str, typer.Option(metavar="COUNT", help="Rows of OUT/validation, to choose hyper-parameters on.")
    ] = "0",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
) -> None:
    """Write a synthetic short-video log whose best reachable NE is known."""
    from data.synthetic.dataset import synthesise
    from trainer.console import count_progress, make_console

    train_rows = _count("--samples", samples)
    test_rows = _count("--test-samples", test_samples)
    validation_rows = _count("--validation-samples", validation_samples)

    with count_progress("writing rows", train_rows + validation_rows + test_rows) as progress:
        summary = synthesise(
            path_of("OUT", out),
            train_rows,
            test_rows,
            tasks,
            seed=seed,
            progress=progress,
            validation_samples=validation_rows,
        )

    make_console().print(synth_table(summary))


@importers.command("kuairand")
def import_kuairand_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder of the official KuaiRand-Pure CSV files.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write.")],
    test_days: Annotated[int, typer.Option(min=1, help="Last days of the log that become the test set.")] = 2,
) -> None:
    """KuaiRand-Pure: joins logs with user and video features, drops exact duplicates, splits by day."""
    from data.importers.kuairand import import_kuairand
    from trainer.console import make_console

    make_console().print(import_table(import_kuairand(path_of("SRC", source), path_of("OUT", out), test_days)))


@importers.command("census")
def import_census_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder of the official Census-Income (KDD) files.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write.")],
    halves: Annotated[
        bool, typer.Option("--halves", help="Half of the test rows become OUT/validation, as in the AdaTT paper.")
    ] = False,
) -> None:
    """Census-Income (KDD): the labels income, never_married and college; columns that define them are left out."""
    from data.importers.census import import_census
    from trainer.console import make_console

    summary = import_census(path_of("SRC", source), path_of("OUT", out), halves=halves)
    rows = [f"{count:,} {split}" for split, count in summary.rows.items()]
    table = Table(title=f"rows: {', '.join(rows)}")
    table.add_column("label")
    table.add_column("positive rate", justify="right")
    for label, rate in summary.rates.items():
        table.add_row(label, number_cell(rate))
    make_console().print(table)


def _count(option: str, text: str) -> int:
    from data.counts import parse_count

    try:
        return parse_count(text)
    except ValueError as error:
        raise ExpectedError(f"{option}: {error}") from error


def import_table(summary: "ImportSummary") -> Table:
    """What an import read, dropped and wrote."""
    table = Table(title="imported")
    table.add_column("what")
    table.add_column("rows", justify="right")
    table.add_row("read", f"{summary.rows_read:,}")
    table.add_row("exact duplicates dropped", f"{summary.duplicates_dropped:,}")
    table.add_row(f"train, {_days(summary.train_days)}", f"{summary.train_rows:,}")
    table.add_row(f"test, {_days(summary.test_days)}", f"{summary.test_rows:,}")

    return table


def synth_table(summary: "SynthSummary") -> Table:
    """What was drawn, and the best that a model can reach on it."""
    table = Table(title=f"{summary.train_rows:,} training and {summary.test_rows:,} test rows in {summary.files} files")
    for name in ("task", "kind", "positive rate", "oracle NE", "oracle MSE", "variance"):
        table.add_column(name, justify="left" if name in ("task", "kind") else "right")

    for task in summary.tasks:
        numbers = (task.rate, task.oracle_ne, task.oracle_mse, task.label_variance)
        table.add_row(task.name + " (auxiliary)" * task.auxiliary, task.kind, *map(number_cell, numbers))

    return table


def _days(days: tuple[int, ...]) -> str:
    return f"{days[0]} to {days[-1]}"
