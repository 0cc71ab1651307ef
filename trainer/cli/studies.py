"""`adatt study`: the same comparison for everyone, by one command."""

import os
import re
import shlex
import sys
from typing import Annotated

import typer

from data.errors import ExpectedError
from trainer.cli.options import SetOption


def study_command(  # noqa: PLR0913 - one parameter for each option
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder with a study.toml, such as experiments/table1.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Where runs, logs and the study's page go.")],
    short: Annotated[bool, typer.Option("--short", help="The whole study in about a minute, in OUT/short.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell runs, samples, FLOPs and hours.")] = False,
    seeds: Annotated[str | None, typer.Option(metavar="N[,N…]", help="Seeds instead of the study's: 17,18,19.")] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Trainings at a time; left out: one a core, --threads each.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of each training.")] = 1,
    changes: SetOption = None,
) -> None:
    """Run a study: train every variant with every seed, compare, and write the table.

    DIR/study.toml names a config, what varies, the seeds, and how to come by the data. Runs are ordinary runs in
    OUT/runs; one that has ended is not repeated, one that was interrupted goes on: start the same command again.
    Written: OUT/study.md, study.html, study.json. docs/study.md explains how heads are compared.

    adatt study experiments/table1 --out runs/table1 --dry-run
    """
    from data.storage.paths import path_of
    from trainer.console import make_console
    from trainer.studies.folder import study_folder
    from trainer.studies.pages import console_table
    from trainer.studies.run import dry_run_table, run_study
    from trainer.studies.study import Expanded, read_study

    target = study_folder(path_of("--out", out), short=short)
    study = Expanded(read_study(folder), folder, short=short, changes=changes or [], seeds=_seeds(seeds))
    at_once = parallel or max((os.cpu_count() or 1) // threads, 1)
    console = make_console()
    if dry_run:
        console.print(console_table(dry_run_table(study, target, at_once, threads)))
        return

    command = shlex.join(["adatt", *sys.argv[1:]])
    for table in run_study(study, target, at_once, threads, command):
        console.print(console_table(table))
    console.print(f"written: {target / 'study.md'}, study.html and study.json", soft_wrap=True)


def _seeds(text: str | None) -> list[int]:
    if text is None:
        return []
    parts = text.split(",")
    seeds = [int(part) for part in parts if re.fullmatch(r"\s*\d{1,18}\s*", part)]
    if len(set(seeds)) < len(parts):
        raise ExpectedError(f"--seeds {text!r}: write different numbers, as in 17,18,19")
    return seeds
