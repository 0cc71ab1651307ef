"""`adatt bench`: the benchmarks, each with its limit measured in the same run."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from data.errors import ExpectedError
from trainer.cli.options import ConfigArgument, JsonOption, SetOption, config_at

bench = typer.Typer(help="Measures speed, beside the limit measured in the same run.")

Record = dict[str, Any]


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

    Levels [256], [128] and tower 64, as in the AdaTT paper.
    """
    from benchmarks.heads import Setting, all_settings, bench_heads
    from models.heads import HEADS
    from trainer.console import make_console

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

    results = []
    for result in bench_heads(settings, threads, rounds):
        results.append(result)
        if as_json:
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()

    if not as_json:
        make_console().print(head_bench_table(results))


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


def head_bench_table(results: list[Record]) -> Table:
    """The figures of `adatt bench heads`."""
    threads = results[0]["threads"]
    rate = results[0]["matmul_flops_per_second"]
    table = Table(title=f"heads, forward + backward; {threads} threads, products at {rate / 1e9:.0f} GFLOP/s")
    table.add_column("head")
    names = (
        "batch",
        "tasks",
        "experts per task",
        "shared",
        "in all",
        "samples/s",
        "loop",
        "speed-up",
        "of product rate",
        "loop's",
    )

    for name in (*names, "parameters", "MFLOP/sample", "MiB"):
        table.add_column(name, justify="right")

    for result in results:
        table.add_row(result["head"], *_head_cells(result))

    return table


def _head_cells(result: Record) -> list[str]:
    sizes = [f"{result[key]:,}" for key in ("batch", "tasks")]
    experts = [str(result[key] or "–") for key in ("task_experts", "shared_experts", "experts")]
    rates = [f"{result[key]:,.0f}" for key in ("samples_per_second", "loop_samples_per_second")]
    fractions = [f"{result[key]:.1%}" for key in ("matmul_fraction", "loop_matmul_fraction")]

    megaflops = f"{result['flops_per_sample'] / 1e6:.2f}"
    mebibytes = f"{result['peak_bytes'] / 2**20:,.0f}"
    cost = [f"{result['parameters']:,}", megaflops, mebibytes]

    return [*sizes, *experts, *rates, f"{result['speedup']:.2f}", *fractions, *cost]


def data_bench_table(results: list[Record]) -> Table:
    """The figures of `adatt bench data`."""
    table = Table(title="reading batches, million rows/s; raw: Arrow's decoding of the same columns on one thread")
    for name in ("data", "order"):
        table.add_column(name)
    for name in ("threads", "M rows/s", "raw", "of raw", "of one thread", "plain loop", "of it", "DataLoader", "of it"):
        table.add_column(name, justify="right")
    for name in ("read", "decode", "gather"):
        table.add_column(f"{name}, µs a row", justify="right")

    for result in results:
        rates = [f"{result[f'{key}rows_per_second'] / 1e6:.3f}" for key in ("", "raw_", "loop_", "dataloader_")]
        of_raw, of_one, of_loop, of_loader = (
            f"{result[key]:.2f}" for key in ("fraction_of_raw", "of_one_thread", "of_loop", "of_dataloader")
        )
        stages = [f"{result[f'{stage}_microseconds']:.2f}" for stage in ("read", "decode", "gather")]
        cells = [rates[0], rates[1], of_raw, of_one, rates[2], of_loop, rates[3], of_loader]
        table.add_row(result["schema"], result["order"], str(result["threads"]), *cells, *stages)

    return table


def _part_rows(result: Record) -> dict[str, str]:
    """The parts of a step, and which of them takes longest."""

    def milliseconds(key: str) -> str:
        return f"{result[key] * 1e3:,.1f} ms"

    return {
        "a step's parts, each alone": f"longest: {result['bottleneck']}",
        "  reading": milliseconds("reading_seconds"),
        "  lookup of embeddings": milliseconds("lookup_seconds"),
        "    limit: their bytes at the rate of a copy": milliseconds("lookup_limit_seconds"),
        "  update of embeddings": milliseconds("update_seconds"),
        "    limit: their bytes, read and written": milliseconds("update_limit_seconds"),
        "  exchange, inside both: as an all-to-all": milliseconds("exchange_limit_seconds"),
        "  head": milliseconds("head_seconds"),
        "    limit: its products": milliseconds("head_limit_seconds"),
    }


def bench_table(result: Record) -> Table:
    """The figures of `adatt bench train`."""
    table = Table(title=f"training on {result['world_size']} ranks, {result['threads']} threads each")
    table.add_column("figure")
    table.add_column("value", justify="right")
    rows = {
        "samples/s": f"{result['samples_per_second']:,.0f}",
        "step": f"{result['step_seconds'] * 1e3:,.1f} ms",
        "waiting for data": f"{result['data_wait_fraction']:.1%}",
        "head, forward + backward": f"{result['head_flops_per_sample'] / 1e6:,.2f} MFLOP/sample",
        "matrix-product rate per rank": f"{result['matmul_flops_per_second'] / 1e9:,.1f} GFLOP/s",
        "bound: head at that rate": f"{result['bound_samples_per_second']:,.0f} samples/s",
        "reached of the bound": f"{result['fraction_of_bound']:.1%}",
        **_part_rows(result),
        "checkpoint": f"{result['checkpoint_bytes'] / 2**20:,.0f} MiB in {result['checkpoint_seconds']:,.2f} s",
        "  training waits for it": f"{result['checkpoint_stall_seconds'] * 1e3:,.1f} ms",
        "  limit: a plain copy": f"{result['checkpoint_copy_seconds'] * 1e3:,.1f} ms",
        "  slower steps while it is written": f"{result['checkpoint_slowdown_seconds'] * 1e3:,.1f} ms in all",
        "evaluation": f"{result['evaluation_samples_per_second']:,.0f} samples/s",
        "  limit: forward pass alone": f"{result['forward_samples_per_second']:,.0f} samples/s",
        "peak memory per process": f"{result['peak_bytes'] / 2**20:,.0f} MiB",
    }

    for name, value in rows.items():
        table.add_row(name, value)

    return table
