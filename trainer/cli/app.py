"""The command line as a whole. Heavy imports wait until a command needs them.

Exit codes: 0 done; 2 the user's input is wrong (one `error:` line, nothing written); 75 stopped on request after
saving, start again to resume; 128 + n ended by signal n (`trainer.process.ending`); 1 anything else.
"""

import logging
import os
import sys
import threading
import time

import typer
from typer.exceptions import Abort, Exit, TyperException

from data.errors import ExpectedError
from trainer.cli.affinity import affinity_command
from trainer.cli.benchmarks import bench
from trainer.cli.datasets import importers, synth_command
from trainer.cli.launching import launch_command
from trainer.cli.planning import plan_command
from trainer.cli.profiles import init_command, inspect_command, stats_command
from trainer.cli.runs import audit_command, compare_command, report_command
from trainer.cli.serving import export_command
from trainer.cli.studies import study_command
from trainer.cli.training import evaluate_command, predict_command, train_command
from trainer.cli.tuning import tune_command
from trainer.distributed.preemption import STOPPED, Stopped
from trainer.distributed.torchrun_env import speaks
from trainer.errors import DISK_FULL, RunError, file_error

RANK_0_SPEAKS_SECONDS = 30
"""Head start of rank 0 in telling an error; once it has ended, torchrun ends the others."""

app = typer.Typer(
    name="adatt",
    help="Trains multi-task recommenders on Parquet logs; evaluates NE per task at sample milestones.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("predict")(predict_command)
app.command("export")(export_command)
app.command("audit")(audit_command)
app.command("compare")(compare_command)
app.command("report")(report_command)
app.command("affinity")(affinity_command)
app.command("study")(study_command)
app.command("plan")(plan_command)
app.command("tune")(tune_command)
app.command("synth")(synth_command)
app.command("init")(init_command)
app.command("inspect")(inspect_command)
app.command("stats")(stats_command)
app.command("launch")(launch_command)
app.add_typer(importers, name="import")
app.add_typer(bench, name="bench")


def run(arguments: list[str]) -> int:
    """The exit code of a command line."""
    threading.excepthook = _tell_of_thread
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # torchrec's use of it is no user's matter
    os.umask(os.umask(0o077) | 0o002)  # nothing that the program creates can be written by everyone

    try:
        code = app(arguments or ["--help"], prog_name="adatt", standalone_mode=False)
    except ExpectedError as error:
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
