"""`adatt audit`, `compare` and `report`: what is asked of finished runs."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from typer.exceptions import Exit

from data.errors import ExpectedError
from data.storage.paths import path_of
from trainer.cli.options import JsonOption, RunArgument


def audit_command(run: RunArgument, as_json: JsonOption = False) -> None:
    """Prove from a run's records how often each row was trained; exit code 1 where a promise is broken.

    For every epoch (counted from 0): rows trained once, more than once, never, and why, in what the newest checkpoint
    has seen. Promised: every row once an epoch unless its absence is explained, starts that join without a gap, on the
    same data, at whole batches. With run.trace, the rows really handed out must be those of the order, batch by batch.
    """
    from trainer.analysis.audit.audit import audit_run
    from trainer.analysis.audit.table import audit_table
    from trainer.console import make_console

    audit = audit_run(run)
    epochs = [account.record() for account in audit.epochs]
    broken = list(audit.promises_broken)

    if as_json:
        files = [{"file": file, "reason": reason} for file, reason in audit.left_out]
        records = [*epochs, {"promises_broken": broken, "files_left_out": files}]
        sys.stdout.writelines(json.dumps(record) + "\n" for record in records)
    else:
        console = make_console()
        console.print(audit_table(epochs))
        for file, reason in audit.left_out:
            console.print(f"no part of the dataset, since it could not be read: {file} ({reason})", soft_wrap=True)
        for promise in broken:
            console.print(f"promise broken: {promise}", soft_wrap=True)

    if broken:
        raise Exit(1)


def compare_command(
    baseline: Annotated[
        str, typer.Argument(metavar="BASELINE", help="Run to compare with; its seeds with commas: runs/a-1,runs/a-2.")
    ],
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Runs; join seeds with commas. Runs that differ only in seed share a row."),
    ],
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write compare.md, compare.json and a curve per task there.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Test set that all have been evaluated on; the runs' own if left out."),
    ] = None,
    windows: Annotated[
        bool,
        typer.Option("--windows", help="Over the windows of the log, before each was trained (evaluate.next_window)."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare runs with a baseline: relative NE or MSE in per cent, per task and milestone, with 95 % intervals.

    Comparing heads (better, worse) takes several seeds; one training on each side only compares two models.
    """
    if windows:
        if out is not None or data is not None:
            raise ExpectedError("--windows reads the records of the runs alone; leave out --out and --data")
        _compare_windows(baseline, runs, as_json)
        return

    from trainer.analysis.compare.compare import compare_runs
    from trainer.analysis.compare.files import json_lines, write_comparison
    from trainer.analysis.compare.table import comparison_grids, comparison_notes, comparison_table
    from trainer.console import make_console, tell

    comparison = compare_runs(baseline, runs, data)
    if out is not None:
        write_comparison(comparison, path_of("--out", out))

    for line in comparison.warnings:
        tell("warning", line)

    if as_json:
        sys.stdout.writelines(json_lines(comparison))
        return

    console = make_console()
    for grid in comparison_grids(comparison.differences):
        console.print(comparison_table(grid))

    for note in comparison_notes(comparison.differences):
        console.print(note)


def _compare_windows(baseline: str, runs: list[str], as_json: bool) -> None:
    from trainer.analysis.compare.table import windows_table
    from trainer.analysis.compare.windows import compare_windows
    from trainer.console import make_console

    differences = compare_windows(baseline, runs)
    if as_json:
        sys.stdout.writelines(json.dumps(asdict(entry)) + "\n" for entry in differences)
    else:
        make_console().print(windows_table(differences))


def report_command(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Runs; the others are compared with the first.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="HTML file to write, or to replace.")] = "report.html",
) -> None:
    """Put runs side by side on one HTML page that opens from disk with no network.

    It shows what differs in the configs, results with 95 % intervals, curves, calibration, fusion weights, speed and
    events. Runs may still be in progress.
    """
    from trainer.analysis.report.report import write_report

    write_report(runs, path_of("--out", out))
    sys.stdout.write(f"written: {out}\n")
