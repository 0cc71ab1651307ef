"""`adatt tune`: a search for the best values of config keys."""

import sys
from typing import Annotated

import typer

from trainer.cli.options import ConfigArgument, JsonOption, SetOption, data_source


def tune_command(  # noqa: PLR0913 - one parameter for each option
    config: ConfigArgument,
    validation: Annotated[
        str, typer.Option(metavar="URI", help="Dataset that trials are judged on; not the config's test set.")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder of the search; named again, it goes on.")],
    grids: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=V1,V2,...", help="Try these values of a key. May be repeated."),
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="KEY=LOW:HIGH[:log]",
            help="Search an interval; whole numbers where both ends are. May be repeated.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="Trials in all; every point of a grid, or 20, if left out.")
    ] = None,
    changes: SetOption = None,
    where: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only these Hive partitions of --validation.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End trials that are behind the median at a milestone.")
    ] = True,
    parallel: Annotated[int, typer.Option(min=1, max=1024, help="Trials at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of each trial.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Search the values of config keys with which a training does best on a validation set.

    Every trial is an ordinary run in DIR/runs. With --grid alone every combination is trained once; with --range
    Optuna's TPE sampler proposes values. The objective, lower is better, is the mean over the tasks of the logarithm of
    NE (NMSE of a regression) at the end. DIR/best.toml is the config with the best values, DIR/tune.json and tune.md
    hold all trials. Started again, a search that was stopped or killed goes on.
    """
    from data.storage.paths import path_of
    from trainer.console import make_console
    from trainer.studies.tuning.space import parse_space

    folder = path_of("--out", out)
    space = parse_space(grids or [], ranges or [])

    from trainer.studies.tuning.checks import Search
    from trainer.studies.tuning.output import (
        TuningDisplay,
        console_table,
        failure_notes,
        json_lines,
        train_command,
        tuning_table,
        write_tuning,
    )
    from trainer.studies.tuning.search import tune

    search = Search(config, tuple(changes or ()), space, data_source(validation, where), trials, prune)
    with TuningDisplay() as display:
        tuning = tune(search, folder, parallel, threads, display)
    write_tuning(tuning, search, folder)

    console = make_console()
    if as_json:
        sys.stdout.writelines(json_lines(tuning))
    else:
        console.print(console_table(tuning_table(tuning)))
        for note in failure_notes(tuning):
            console.print(note, soft_wrap=True)
    command = train_command(search, tuning.best)
    if not as_json:
        console.print(f"best: {command}\nwritten: {folder / 'best.toml'}", soft_wrap=True)
