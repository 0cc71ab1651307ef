"""`adatt export`: a trained run as a folder that serves it."""

import sys
from typing import Annotated, Literal

import typer

from data.errors import ExpectedError
from trainer.cli.options import CheckpointOption, WhereOption, chosen_source, config_of


def export_command(  # noqa: PLR0913 - one parameter for each option
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Folder that `adatt train` wrote.")] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder to write; must be empty or not exist yet.")
    ] = None,
    checkpoint: CheckpointOption = "latest",
    tables: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Of the embedding tables; int8 has a scale and an offset for each row."),
    ] = "float32",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Rows for the proof and the examples; the config's test set, or training data."
        ),
    ] = None,
    where: WhereOption = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows the proof compares.")] = 1000,
    max_ne_change: Annotated[
        float, typer.Option(min=0, metavar="PERCENT", help="Refuse tables that move a task's NE or MSE by more.")
    ] = 0.02,
    since: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="An older checkpoint: write only what turns its export into this one."),
    ] = None,
    apply: Annotated[
        str | None, typer.Option(metavar="DELTA", help="Turn the export RUN into the newer one, by what --since wrote.")
    ] = None,
    verify: Annotated[
        str | None, typer.Option(metavar="DIR", help="Only check that an export's files are as they were written.")
    ] = None,
) -> None:
    """Make a trained run a folder that serves it without this program, proven equal to `adatt predict`.

    DIR/model.pt2 is the network for torch alone (torch.export); features.json, and features.py with nothing but numpy,
    make its inputs of raw rows; score.py does both; tables/ holds the embedding tables as safetensors and Parquet;
    examples.jsonl holds rows with what becomes of them; manifest.json what it all is.

    Before DIR is there, --rows rows go through it in a process apart, and through the run's own model: beyond 1e-6 the
    command ends with exit code 1.

    adatt export runs/july --out exports/july

    adatt export runs/july --since 300k --out exports/delta

    adatt export exports/300k --apply exports/delta --out exports/newest
    """
    if sum(option is not None for option in (since, apply, verify)) > 1:
        raise ExpectedError("--since, --apply and --verify are three commands: give one of them at a time")
    if verify is not None:
        from trainer.export.folder import verify as verify_export

        manifest = verify_export("--verify", verify)
        sys.stdout.write(f"{verify}: {len(manifest.files)} files are as they were written\n")
        return
    if run is None or out is None:
        raise ExpectedError("name a run and where to write: adatt export RUN --out DIR, or adatt export --verify DIR")
    if apply is not None:
        from trainer.export.delta import apply_delta

        manifest = apply_delta(run, apply, out)
        sys.stdout.write(f"{out}: the export at {manifest.samples:,} samples, {len(manifest.files)} files\n")
        return

    from trainer.distributed.joining import joined

    source = chosen_source(data, where)
    with joined(config_of(run), {"command": "export"}, device="auto") as (_, world):
        from trainer.console import make_console
        from trainer.export.export import Request, export_delta, export_run
        from trainer.export.summary import change_table, delta_table, summary_table

        request = Request(run, checkpoint, tables, source, rows, max_ne_change)
        if since is None:
            manifest = export_run(request, out, world)
            grids = [summary_table(manifest), change_table(manifest)]
        else:
            delta = export_delta(request, since, out, world)
            manifest = delta.becomes
            grids = [delta_table(delta), change_table(manifest)]
        console = make_console()
        for grid in grids:
            if grid is not None:
                console.print(grid)
        proven = (
            f"{manifest.rows_proven:,} rows differ from `adatt predict` by {manifest.largest_difference:.1e} at most"
        )
        console.print(f"{proven}: {out}", soft_wrap=True)
