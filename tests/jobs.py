"""Runs commands of the program as the ranks of one job without a launcher, each with variables of its own."""

import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.commands import started_command
from trainer.cli import app


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def free_port() -> int:
    """A port that nothing uses now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def announced(rank: int, size: int, port: int, **others: str) -> dict[str, str]:
    """The variables that a launcher sets."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"RANK": str(rank), "WORLD_SIZE": str(size), **where, **others}


def run_job(
    commands: Sequence[Sequence[str]],
    variables: Sequence[Mapping[str, str]] | None = None,
    prepare: Callable[[], None] | None = None,
) -> list[Ended]:
    """How commands ended that ran side by side; `prepare` (importable) is called in each of them first."""
    port = free_port()
    variables = variables or [announced(rank, len(commands), port) for rank in range(len(commands))]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        started = [
            stack.enter_context(
                started_command(Path(folder), *command, prepare=partial(_prepare, prepare), environment=environment)
            )
            for command, environment in zip(commands, variables, strict=True)
        ]
        return [Ended(command.end(), command.out, command.errors) for command in started]


def _prepare(prepare: Callable[[], None] | None) -> None:
    app.RANK_0_SPEAKS_SECONDS = 0
    if prepare is not None:
        prepare()
