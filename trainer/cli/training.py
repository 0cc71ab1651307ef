"""`adatt train`, `evaluate` and `predict`: the commands that work on several ranks."""

import json
import sys
from typing import Annotated

import typer

from trainer.cli.options import (
    CheckpointOption,
    ConfigArgument,
    JsonOption,
    RunArgument,
    SetOption,
    WhereOption,
    chosen_source,
    config_at,
    config_of,
    data_source,
)


def train_command(
    config: ConfigArgument,
    changes: SetOption = None,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Trace a few steps into RUN/profile, for TensorBoard or Perfetto."),
    ] = False,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Go on with another value of a key, such as optimizer.dense.learning_rate."),
    ] = None,
    accept_changed_data: Annotated[
        bool,
        typer.Option("--accept-changed-data", help="Go on with training files that hold the same rows in other bytes."),
    ] = False,
    follow: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="At the end, look every MINUTES whether the log has grown, and go on."),
    ] = None,
) -> None:
    """Train a run, or resume it if run.dir holds a checkpoint of the same config.

    On several processes: torchrun --nproc-per-node 2 -m trainer train CONFIG
    """
    from trainer.distributed.joining import joined
    from trainer.process.output import go_on_unread

    go_on_unread()
    allowed = [f"run.allow_change={json.dumps(allow_change)}"] if allow_change else []
    accepted = ["run.accept_changed_data=true"] if accept_changed_data else []
    options = {
        "command": "train",
        "--profile": profile,
        "--allow-change": allow_change,
        "--accept-changed-data": accept_changed_data,
        "--follow": follow,
    }
    with joined(config_at(config, [*(changes or []), *allowed, *accepted]), options) as (loaded, world):
        from trainer.growth.follow import follow as train_and_follow
        from trainer.train import train

        if follow is None:
            train(loaded, world, profile=profile)
        else:
            train_and_follow(loaded, world, follow, profile=profile)


def evaluate_command(
    run: RunArgument,
    checkpoint: CheckpointOption = "latest",
    data: Annotated[str | None, typer.Option(metavar="URI", help="Dataset; the config's test set if left out.")] = None,
    where: WhereOption = None,
    unit: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Rows that belong together, for comparisons; evaluate.unit if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a checkpoint of a run.

    Keeps in RUN/evaluations what `adatt compare` needs to compare runs on this dataset.
    """
    from trainer.distributed.joining import joined

    source = chosen_source(data, where)
    options = {"command": "evaluate", "--checkpoint": checkpoint, "--unit": unit, "--where": where}
    with joined(config_of(run), options, device="auto") as (_, world):
        from trainer.console import make_console
        from trainer.evaluation.evaluate_run import evaluate_run
        from trainer.logging.tables import by_table, evaluation_table
        from trainer.run.jsonl import json_line

        records = evaluate_run(run, checkpoint, source, world, unit)
        if world.is_rank_zero and as_json:
            sys.stdout.writelines(json_line(record) for record in records)
        elif world.is_rank_zero:
            console = make_console()
            console.print(evaluation_table([record for record in records if record.by is None]))
            for column in dict.fromkeys(record.by for record in records if record.by is not None):
                of_column = [record for record in records if record.by == column]
                console.print(by_table(column, of_column, "--json"))


def predict_command(
    run: RunArgument,
    data: Annotated[str, typer.Option(metavar="URI", help="Dataset to score; needs the features, no labels.")],
    out: Annotated[str, typer.Option(metavar="URI", help="Output folder; must be empty or not exist yet.")],
    checkpoint: CheckpointOption = "latest",
    where: WhereOption = None,
    columns: Annotated[
        str, typer.Option(metavar="A,B,...", help="Columns to copy from the dataset; 'click as label' renames one.")
    ] = "",
) -> None:
    """Score a dataset to Parquet: one row out for every row in, in the order of the input.

    OUT/part-00000.parquet and so on, by path, hold the rows in the dataset's order of files. Columns: row (its
    number in the input, from 0), a float32 for every task by its name (a probability, or a regression's value), and
    those copied. The output is complete once OUT/_SUCCESS is there; an error removes what was written.
    """
    from trainer.distributed.joining import joined

    source = data_source(data, where)
    options = {"command": "predict", "--checkpoint": checkpoint, "--columns": columns, "--where": where}
    with joined(config_of(run), options, device="auto") as (_, world):
        from trainer.console import make_console
        from trainer.prediction.predict import predict_run

        scored = predict_run(run, checkpoint, source, out, columns, world)
        if world.is_rank_zero:
            make_console().print(f"{scored} in {out}", soft_wrap=True)
