"""Errors of the trainer's own input; see `data.errors` for the tree."""

from data.errors import UserError


class ConfigError(UserError):
    """A config key, a run directory or a command-line value is wrong."""


class CheckpointError(UserError):
    """A checkpoint cannot be used as asked."""


class RunError(Exception):
    """The run cannot go on, for no fault of its input; the message is one line that says what to do. Exit code 1."""
