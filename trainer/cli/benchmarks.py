"""`adatt bench`: the benchmarks, each with its limit measured in the same run."""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Annotated

import typer
from rich.table import Table

from data.errors import ExpectedError
from trainer.cli.benchmark_tables import (
    Record,
    balance_bench_table,
    bench_table,
    data_bench_table,
    head_bench_table,
    serving_bench_table,
)
from trainer.cli.options import (
    CheckpointOption,
    ConfigArgument,
    JsonOption,
    RunArgument,
    SetOption,
    config_at,
    config_of,
)

bench = typer.Typer(help="Measures speed, beside the limit measured in the same run.")


@bench.command("heads")
def bench_heads_command(  # noqa: PLR0913 - one parameter for each option
    heads: Annotated[
        list[str] | None, typer.Option("--head", metavar="NAME", help="Only this head. May be repeated.")
    ] = None,
    tasks: Annotated[int, typer.Option(min=1, max=100)] = 5,
    task_experts: Annotated[int, typer.Option(min=1, max=100, help="Experts of each task, per level.")] = 3,
    shared_experts: Annotated[
        int,
        typer.Option(
            min=0, max=100, help="Shared experts per level; mmoe and ml_mmoe have tasks x task experts + these."
        ),
    ] = 1,
    batch: Annotated[int, typer.Option(min=1, max=1 << 20)] = 4096,
    inputs: Annotated[int, typer.Option("--input", min=1, max=1 << 16, help="Width of the head's input.")] = 512,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of every product.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is timed; figures are medians.")] = 9,
    grid: Annotated[
        bool, typer.Option("--all", help="2 and 5 tasks x 1 to 4 experts, batch 256, and 20 tasks with 64 experts.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Time every head, forward and backward, against its loop version and the machine's matrix-product rate.

    Levels [256], [128] and tower 64, as in the AdaTT paper; of soft_ordering, sluice and
    adashare, which have one width, 192.
    """
    from benchmarks.heads import Setting, all_settings, bench_heads
    from models.heads import HEADS

    if grid and (tasks, task_experts, shared_experts, batch, inputs) != (5, 3, 1, 4096, 512):
        raise ExpectedError("--all has its own tasks, experts, batches and input; omit the options for them")

    for name in heads or []:
        if name not in HEADS:
            raise ExpectedError(f"--head: unknown head {name!r}; choose from {', '.join(HEADS)}")

    settings = [Setting(name, tasks, task_experts, shared_experts, batch, inputs) for name in HEADS]
    if grid:
        settings = all_settings()

    if heads:
        settings = [setting for setting in settings if setting.head in heads]

    _show(bench_heads(settings, threads, rounds), head_bench_table, as_json)


@bench.command("data")
def bench_data_command(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="Read its training data; left out: --schema.")
    ] = None,
    changes: SetOption = None,
    schemas: Annotated[
        list[str] | None,
        typer.Option(
            "--schema",
            metavar="NAME",
            help="wide (200 columns, 20 of them lists), strings (20 columns of 1M distinct strings) or small_groups "
            "(400 row groups of 64 rows x 500 columns; for it, --rows 10000): random rows in a temporary folder. May "
            "be repeated; wide and strings where neither it nor CONFIG is given.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is timed; figures are medians.")] = 5,
    rows: Annotated[
        int, typer.Option(min=1024, help="Rows that each timing reads, rounded up to a row group of every lane.")
    ] = 500_000,
    as_json: JsonOption = False,
) -> None:
    """Time the reading of batches against Arrow's decoding of the same columns, a plain loop and a DataLoader.

    Shuffled and in stored order, with one and two threads, on this process alone.
    """
    from benchmarks.data import bench_config, bench_schema
    from benchmarks.schemas import SCHEMAS
    from trainer.config.load import load_config
    from trainer.console import make_console

    for name in schemas or []:
        if name not in SCHEMAS:
            raise ExpectedError(f"--schema: unknown schema {name!r}; choose from {', '.join(SCHEMAS)}")

    results: list[Record] = []
    if config is not None:
        results += bench_config(load_config(config, changes), rounds, rows)
    elif changes:
        raise ExpectedError("--set changes a config; name one")
    for name in schemas or (() if config else ("wide", "strings")):
        results += bench_schema(name, rounds, rows)

    if as_json:
        sys.stdout.writelines(json.dumps(result) + "\n" for result in results)
    else:
        make_console().print(data_bench_table(results))


@bench.command("train")
def bench_train_command(
    config: ConfigArgument,
    changes: SetOption = None,
    batches: Annotated[int, typer.Option(min=1, help="Global batches to time, six times.")] = 10,
    random_ids: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="IDS",
            help="Not the config's data, but random rows that fit it, with so many ids for each sparse feature on "
            "average.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time training steps, and what bounds them: reading, embeddings and head alone, each beside its own limit."""
    from trainer.distributed.joining import joined

    options = {"command": "bench train", "--batches": batches, "--random-ids": random_ids}
    with joined(config_at(config, changes), options) as (loaded, world):
        from benchmarks.train import bench_train
        from trainer.console import make_console

        result = bench_train(loaded, world, batches, random_ids)
        if world.is_rank_zero and as_json:
            sys.stdout.write(json.dumps(result) + "\n")
        elif world.is_rank_zero:
            make_console().print(bench_table(result))


@bench.command("balance")
def bench_balance_command(  # noqa: PLR0913 - one parameter for each option
    methods: Annotated[
        list[str] | None, typer.Option("--method", metavar="NAME", help="Only this method. May be repeated.")
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option("--head", metavar="NAME", help="Of this head; shared_bottom and adatt are the default."),
    ] = None,
    tasks: Annotated[
        list[int] | None, typer.Option(min=1, max=100, help="May be repeated; 2, 5 and 20 are the default.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1 << 20)] = 1024,
    threads: Annotated[int, typer.Option(min=1, max=1024)] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is timed; figures are medians.")] = 9,
    as_json: JsonOption = False,
) -> None:
    """Time a training step with each method of balancing the tasks, against one that adds the losses up.

    Beside those that take the tasks' gradients: a pass back through the head for each task at the machine's
    matrix-product rate, and a whole backward pass for each.
    """
    from benchmarks.balance import HEADS, METHODS, TASKS, Setting, bench_balance

    for option, names, known in (("--method", methods, METHODS), ("--head", heads, HEADS)):
        for name in names or []:
            if name not in known:
                raise ExpectedError(f"{option}: unknown name {name!r}; choose from {', '.join(known)}")

    settings = [
        Setting(head, number, batch, tuple(methods or METHODS)) for head in heads or HEADS for number in tasks or TASKS
    ]
    _show(bench_balance(settings, threads, rounds), balance_bench_table, as_json)


@bench.command("serving")
def bench_serving_command(
    run: RunArgument,
    checkpoint: CheckpointOption = "latest",
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each is timed; less where that takes more than two seconds.")
    ] = 200,
    as_json: JsonOption = False,
) -> None:
    """Time an export of a run: raw rows to inputs, and inputs to predictions, for 1, 64 and 1,024 rows.

    Beside the forward pass of the trained model, and the head's products at the machine's rate. One thread each:
    OMP_NUM_THREADS=1.
    """
    from trainer.distributed.joining import joined

    with joined(config_of(run), {"command": "bench serving"}, device="cpu") as (_, world):
        from benchmarks.serving import bench_serving

        _show(bench_serving(run, checkpoint, world, rounds), serving_bench_table, as_json)


def _show(results: Iterable[Record], table: Callable[[list[Record]], Table], as_json: bool) -> None:
    """A line of JSON for each as it comes, or the table of all."""
    from trainer.console import make_console

    if not as_json:
        make_console().print(table(list(results)))
        return
    for result in results:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
