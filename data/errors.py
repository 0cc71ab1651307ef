"""Errors of the program. Every one that a user can cause ends in one line: what, where, the value found, the way out.

    Exception
    ├── ExpectedError             the input is wrong: exit code 2, and nothing is written
    │   ├── DataError             a dataset, a file of it, or a value in it
    │   │   ├── UnreadableError   a file or row group that cannot be read (data.discovery.footer)
    │   │   └── BadValueError     values that nothing can be made of (data.columns.bad_values)
    │   ├── ConfigError           a config key, a run's folder or a command-line value (trainer.errors)
    │   └── CheckpointError       a checkpoint that cannot be used (trainer.errors)
    │       └── ForeignError      one of another run (trainer.checkpoint.ownership)
    ├── RunError                  the run cannot go on, for no fault of its input: exit code 1 (trainer.errors)
    └── Stopped                   the run was saved and ends, as asked: exit code 75 (trainer.distributed.preemption)

    OutputClosed (trainer.process.output) says that nobody reads the output any more.

    OSError
    └── LinkError                 a link is in the place of a file (data.storage.files)

    BaseException
    └── Interrupted               a command with nothing to save is to end, by a signal (trainer.process.signals)

Anything else that escapes is a bug of ours, and keeps its traceback.
"""


class ExpectedError(Exception):
    """The user's input is wrong; the message is one line that says what to do."""


class DataError(ExpectedError):
    """A dataset cannot be used as asked."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message; Arrow's go on with advice to programmers."""
    lines = str(error).strip().splitlines() or [repr(error)]
    return lines[0].rstrip(".")
