"""Errors that the user can mend.

    ExpectedError             one line: what, where, the value found, the way out; exit code 2
    ├── DataError         a dataset, a file of it, or a value in it
    └── ConfigError       a config key (raised by `trainer`)

Anything else that escapes is a bug of ours and keeps its traceback.
"""


class ExpectedError(Exception):
    """The user's input is wrong; the message is one line that says what to do."""


class DataError(ExpectedError):
    """A dataset cannot be used as asked."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message; Arrow's go on with advice to programmers."""
    lines = str(error).strip().splitlines() or [repr(error)]
    return lines[0].rstrip(".")
