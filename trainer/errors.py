"""Errors of the trainer's own input; see `data.errors` for the tree."""

from data.errors import UserError


class ConfigError(UserError):
    """A config key, a run directory or a command-line value is wrong."""


class CheckpointError(UserError):
    """A checkpoint cannot be used as asked."""
