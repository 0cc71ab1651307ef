"""The command line. Every command's own work is elsewhere; heavy imports wait until a command needs them.

Exit codes: 0 done; 2 the user's input is wrong (one `error:` line, nothing written); 75 stopped on request after
saving, start again to go on; 1 anything else.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.exceptions import Abort, Exit, TyperException

from data.errors import UserError
from data.paths import path_of
from trainer.errors import DISK_FULL, RunError, file_error
from trainer.ranks import speaks
from trainer.stop import STOPPED, Stopped

if TYPE_CHECKING:
    from trainer.config import Config

app = typer.Typer(
    name="adatt",
    help="Trains multi-task recommenders on Parquet logs; evaluates NE per task at sample milestones.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
importers = typer.Typer(help="Turns the official files of a public dataset into Parquet.")
benchmarks = typer.Typer(help="Measures speed, beside the limit measured in the same run.")
app.add_typer(importers, name="import")
app.add_typer(benchmarks, name="bench")

RANK_0_SPEAKS_SECONDS = 30
"""Head start of rank 0 in telling an error; once it has ended, torchrun ends the others."""
TaskGroup = Literal["engagement-consumption", "two-consumption", "five"]
ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="TOML file of the run; see docs/configuration.md.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key: a TOML value or a bare word. May be repeated."),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Folder that `adatt train` wrote.")]
CheckpointOption = Annotated[
    str, typer.Option(metavar="NAME", help="Samples of a checkpoint, a milestone or count such as 20k, or latest.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]


@app.command("train")
def train_command(
    config: ConfigArgument,
    changes: SetOption = None,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Trace a few steps into RUN/profile, for TensorBoard or Perfetto."),
    ] = False,
) -> None:
    """Train a run, or go on with it where run.dir holds a checkpoint of the same config.

    On several processes: torchrun --nproc-per-node 2 -m trainer train CONFIG
    """
    from trainer.joining import joined
    from trainer.output import go_on_unread

    go_on_unread()
    with joined(_config_at(config, changes), {"command": "train", "--profile": profile}) as (loaded, world):
        from trainer.train import train

        train(loaded, world, profile=profile)


@app.command("evaluate")
def evaluate_command(
    run: RunArgument,
    checkpoint: CheckpointOption = "latest",
    data: Annotated[str | None, typer.Option(metavar="URI", help="Dataset; the config's test set if left out.")] = None,
    unit: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Rows that belong together, for comparisons; evaluate.unit if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a checkpoint of a run.

    Keeps in RUN/evaluations what `adatt compare` needs to compare runs on this dataset.
    """
    from trainer.joining import joined

    options = {"command": "evaluate", "--checkpoint": checkpoint, "--unit": unit}
    with joined(_config_of(run), options, device="auto") as (_, world):
        from trainer.console import make_console
        from trainer.evaluate_run import evaluate_run
        from trainer.report import by_table, evaluation_table

        records = evaluate_run(run, checkpoint, data, world, unit)
        if world.first and as_json:
            sys.stdout.writelines(json.dumps(record) + "\n" for record in records)
        elif world.first:
            console = make_console()
            console.print(evaluation_table([record for record in records if record["by"] is None]))
            for column in dict.fromkeys(record["by"] for record in records if record["by"] is not None):
                of_column = [record for record in records if record["by"] == column]
                console.print(by_table(column, of_column, "--json"))


@app.command("predict")
def predict_command(
    run: RunArgument,
    data: Annotated[str, typer.Option(metavar="URI", help="Dataset to score; needs the features, no labels.")],
    out: Annotated[str, typer.Option(metavar="URI", help="Folder to write, empty or not there yet.")],
    checkpoint: CheckpointOption = "latest",
    columns: Annotated[
        str, typer.Option(metavar="A,B,...", help="Columns to copy from the dataset; 'click as label' renames one.")
    ] = "",
) -> None:
    """Score a dataset to Parquet: one row out for every row in, in the order of the input.

    OUT/part-00000.parquet and so on, by path, hold the rows as the dataset's files do, by path. Columns: row (its
    number in the input, from 0), a float32 for every task by its name (a probability, or a regression's value), and
    those copied. The output is complete once OUT/_SUCCESS is there; an error removes what was written.
    """
    from trainer.joining import joined

    options = {"command": "predict", "--checkpoint": checkpoint, "--columns": columns}
    with joined(_config_of(run), options, device="auto") as (_, world):
        from trainer.console import make_console
        from trainer.predict import predict_run

        scored = predict_run(run, checkpoint, data, out, columns, world)
        if world.first:
            make_console().print(f"{scored} in {out}", soft_wrap=True)


@app.command("audit")
def audit_command(run: RunArgument, as_json: JsonOption = False) -> None:
    """Prove from a run's records how often each row was trained; exit code 1 where a promise is broken.

    For every epoch (counted from 0): rows trained once, more than once, never, and why, in what the newest checkpoint
    has seen. Promised: every row once an epoch unless its absence is explained, starts that join without a gap, on the
    same data, at whole batches. With run.trace, the rows really handed out must be those of the order, batch by batch.
    """
    from trainer.audit import audit_run
    from trainer.console import make_console
    from trainer.report import audit_table

    audit = audit_run(run)
    epochs, broken = [account.record() for account in audit.epochs], list(audit.promises_broken)
    if as_json:
        files = [{"file": file, "reason": reason} for file, reason in audit.left_out]
        last = {"promises_broken": broken, "files_left_out": files}
        sys.stdout.writelines(json.dumps(record) + "\n" for record in [*epochs, last])
    else:
        console = make_console()
        console.print(audit_table(epochs))
        for file, reason in audit.left_out:
            console.print(f"no part of the dataset, since it could not be read: {file} ({reason})", soft_wrap=True)
        for promise in broken:
            console.print(f"promise broken: {promise}", soft_wrap=True)
    if broken:
        raise Exit(1)


@app.command("compare")
def compare_command(
    baseline: Annotated[
        str, typer.Argument(metavar="BASELINE", help="Run to compare with; its seeds with commas: runs/a-1,runs/a-2.")
    ],
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Runs, or several with commas; those equal but for the seed are one row."),
    ],
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write compare.md, compare.json and a curve per task there.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Test set that all have been evaluated on; the runs' own if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs with a baseline: relative NE or MSE in per cent, per task and milestone, with 95 % intervals.

    Only several seeds tell heads apart (better, worse): one training on each side tells two models apart.
    """
    from trainer.compare import compare_runs
    from trainer.compare_files import json_lines, write_comparison
    from trainer.compare_table import comparison_grids, comparison_notes
    from trainer.console import make_console, tell
    from trainer.report import comparison_table

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


@app.command("report")
def report_command(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Runs; the others are compared with the first.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="HTML file to write, or to replace.")] = "report.html",
) -> None:
    """Put runs side by side on one HTML page that opens from disk with no network.

    It shows what differs in the configs, results with 95 % intervals, curves, calibration, fusion weights, speed and
    events. Runs may be under way.
    """
    from trainer.html_report import write_report

    write_report(runs, path_of("--out", out))
    sys.stdout.write(f"written: {out}\n")


@app.command("synth")
def synth_command(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write: OUT/train, OUT/test, OUT/schema.json.")],
    samples: Annotated[str, typer.Option(metavar="COUNT", help="Training rows: 300k, 3M …")],
    test_samples: Annotated[str, typer.Option(metavar="COUNT", help="Test rows.")] = "200k",
    tasks: Annotated[
        TaskGroup, typer.Option(metavar="GROUP", help="engagement-consumption, two-consumption or five.")
    ] = "five",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
) -> None:
    """Write a synthetic short-video log whose best reachable NE is known."""
    from data.synth import synthesise
    from trainer.console import count_progress, make_console
    from trainer.report import synth_table

    train_rows, test_rows = _count("--samples", samples), _count("--test-samples", test_samples)
    with count_progress("writing rows", train_rows + test_rows) as progress:
        summary = synthesise(path_of("OUT", out), train_rows, test_rows, tasks, seed=seed, progress=progress)
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
    from trainer.report import import_table

    make_console().print(import_table(import_kuairand(path_of("SRC", source), path_of("OUT", out), test_days)))


@benchmarks.command("heads")
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
    from trainer.report import head_bench_table

    if grid and (tasks, task_experts, shared_experts, batch, inputs) != (5, 3, 1, 4096, 512):
        raise UserError("--all has its own tasks, experts, batches and input; leave the options for them out")
    for name in heads or []:
        if name not in HEADS:
            raise UserError(f"--head: unknown head {name!r}; choose from {', '.join(HEADS)}")
    chosen = [Setting(name, tasks, task_experts, shared_experts, batch, inputs) for name in HEADS]
    wanted = [setting for setting in (all_settings() if grid else chosen) if not heads or setting.head in heads]
    results = []
    for result in bench_heads(wanted, threads, rounds):
        results.append(result)
        if as_json:
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()
    if not as_json:
        make_console().print(head_bench_table(results))


@benchmarks.command("train")
def bench_train_command(
    config: ConfigArgument,
    changes: SetOption = None,
    batches: Annotated[int, typer.Option(min=1, help="Global batches to time, six times.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Time training steps against the bound that the head's FLOPs set at this machine's matrix-product rate."""
    from trainer.joining import joined

    options = {"command": "bench train", "--batches": batches}
    with joined(_config_at(config, changes), options) as (loaded, world):
        from benchmarks.train import bench_train
        from trainer.console import make_console
        from trainer.report import bench_table

        result = bench_train(loaded, world, batches)
        if world.first:
            sys.stdout.write(json.dumps(result) + "\n") if as_json else make_console().print(bench_table(result))


def _config_at(path: str, changes: list[str] | None) -> "Callable[[], Config]":
    """Loads a config file, and the libraries that training needs: a node may lack one."""

    def load() -> "Config":
        from trainer.config import load_config

        config = load_config(path, changes)
        import trainer.train  # noqa: F401

        return config

    return load


def _config_of(run: str) -> "Callable[[], Config]":
    """Loads the config of a run, and the libraries that its model needs."""

    def load() -> "Config":
        from trainer.run_directory import RunDirectory

        config = RunDirectory(run).read_config()
        import trainer.evaluate_run  # noqa: F401

        return config

    return load


def _count(option: str, text: str) -> int:
    from data.counts import parse_count

    try:
        return parse_count(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error


def run(arguments: list[str]) -> int:
    """The exit code of a command line."""
    threading.excepthook = _tell_of_thread
    os.umask(os.umask(0o077) | 0o002)  # nothing that the program creates can be written by everyone
    try:
        code = app(arguments or ["--help"], prog_name="adatt", standalone_mode=False)
    except UserError as error:
        return _tell(str(error), 2)
    except RunError as error:
        return _tell(str(error), 1)
    except Stopped:
        return STOPPED
    except OSError as error:
        if error.filename is None and error.errno not in DISK_FULL:
            raise
        return _tell(str(file_error(error)), 1)
    except TyperException as error:
        return _tell(f"{error.format_message()} (try --help)", 2)
    except Exit as ended:
        return int(ended.exit_code)
    except (Abort, KeyboardInterrupt):
        return 130
    return code if isinstance(code, int) else 0


def _tell_of_thread(failure: threading.ExceptHookArgs) -> None:
    """A full disk stops TensorBoard's thread too, but the main thread tells of it."""
    error = failure.exc_value
    if not (isinstance(error, OSError) and error.errno in DISK_FULL):
        threading.__excepthook__(failure)


def _tell(message: str, code: int) -> int:
    """One line on standard error. Rank 0 speaks first: an error of all ranks ends the others before they repeat it."""
    from trainer.console import tell

    if not speaks():
        time.sleep(RANK_0_SPEAKS_SECONDS)
    tell("error", message)
    sys.stderr.flush()
    return code
