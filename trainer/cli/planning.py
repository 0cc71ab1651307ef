"""`adatt plan`: what a training would take, before there are machines for it."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.options import ConfigArgument, JsonOption, SetOption

if TYPE_CHECKING:
    from trainer.planning.plan import Size, TooBig
    from trainer.planning.published import Checked


def plan_command(  # noqa: PLR0913 - one parameter for each option
    config: ConfigArgument,
    world_size: Annotated[
        str, typer.Option(metavar="N[,N…]", help="Ranks, one a GPU; several numbers give one line each.")
    ],
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines; left out: 8 GPUs a node, and one node of CPU ranks.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="h100, h200 or a100 by their published figures; cpu: this machine, measured now.")
    ] = "h100",
    ids_per_row: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|FEATURE=N",
            help="Ids of every feature, or of one; left out: the mean of the data, or 1. May be repeated.",
        ),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Draw the sweep over --world-size as a PNG.")] = None,
    changes: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what a training would take: memory, time to each milestone, reading. Needs no accelerator and no data.

    Tables are placed by the planner that the training itself would ask, on described ranks. The time of a step is a
    model of its parts: reading, lookup, exchange of embeddings (all-to-all), head, all-reduce of its gradients, update
    of tables, dense optimizer, overhead. The longest one is the bottleneck. For GPUs, published trainings are shown
    beside what the same model says of them; docs/benchmarks.md has its errors on CPUs.

    What does not fit is told with by how much, and what would.

    adatt plan configs/industrial.toml --world-size 128 --device h100

    adatt plan configs/industrial.toml --world-size 8,16,32,64,128 --out sweep.png
    """
    from data.storage.paths import path_of
    from trainer.config.load import load_config
    from trainer.planning.plan import Size
    from trainer.planning.published import check_published
    from trainer.planning.sweep import parse_world_sizes, plan_sizes

    target = None if out is None else path_of("--out", out)
    sizes = parse_world_sizes(world_size)
    results = plan_sizes(load_config(config, changes), sizes, device, nodes, ids_per_row or [])
    planned = [result for result in results if isinstance(result, Size)]
    published = check_published() if planned and device != "cpu" else []
    if as_json:
        _write(results, published)
    elif planned:
        _print(results, published)

    if target is not None and planned:
        from trainer.planning.plot import plot_sweep

        plot_sweep(planned, target)

    fitting = [result for result in results if result.fits]
    if not fitting:
        raise _error(config, results[-1])


def _write(results: "list[Size | TooBig]", published: "list[Checked]") -> None:
    from trainer.planning.record import record_of

    for result in results:
        sys.stdout.write(json.dumps(record_of(result, published)) + "\n")


def _print(results: "list[Size | TooBig]", published: "list[Checked]") -> None:
    from trainer.console import make_console
    from trainer.planning.plan import Size
    from trainer.planning.record import basis_of
    from trainer.planning.report import (
        device_line,
        placement_table,
        published_table,
        rank_table,
        summary_table,
        sweep_table,
    )

    console = make_console()
    (size, *_) = [result for result in results if isinstance(result, Size)]
    if len(results) == 1:
        for table in (placement_table(size), rank_table(size), summary_table(size)):
            console.print(table)
    else:
        console.print(sweep_table(results))
    if published:
        console.print(published_table(published))

    device = size.cluster.device
    for note in (device_line(device), basis_of(device), *size.work.assumptions):
        console.print(f"note: {note}", soft_wrap=True)


def _error(config: str, result: "Size | TooBig") -> Exception:
    from trainer.errors import ConfigError

    return ConfigError(f"{config}: {result.lack}; what would fit: {', or '.join(result.ways)}")
