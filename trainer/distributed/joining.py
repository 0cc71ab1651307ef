"""A process becomes a rank: it loads its config, meets the other ranks, and joins the process group with them.

    load the config ─► roll call: all are there, and alike ─► process group ─► World

A single process has nobody to meet. Libraries that may be missing on one node are imported while the config is loaded,
so that the other ranks hear of it.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch.distributed as dist

from trainer.distributed.agreement import account_of
from trainer.distributed.pulse import Pulse
from trainer.distributed.rendezvous import answer, connect, told_to_others
from trainer.distributed.torchrun_env import announced_ranks
from trainer.distributed.watchdog import HangWatchdog
from trainer.distributed.world import DeviceName, World, choose_device, start_world
from trainer.errors import ConfigError, RunError
from trainer.process.host import end_without_launcher

if TYPE_CHECKING:
    from trainer.config.run_config import RunConfig


class Request(Protocol):
    """What a rank is asked to do: a config, or what else has its section `run`."""

    @property
    def run(self) -> "RunConfig":
        """Of it: device, hang_seconds, collective_seconds."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """All of it, as JSON can hold it."""


Loaded = TypeVar("Loaded", bound=Request)


@contextmanager
def joined(
    load: Callable[[], Loaded], start: Mapping[str, Any], device: DeviceName | None = None
) -> Iterator[tuple[Loaded, World]]:
    """Context of a rank, with the config that `load` returns; all ranks have loaded the same, by the same code.

    `start`: the command and its options, which all ranks must share; `device`: None for that of the config.
    """
    ranks = announced_ranks()
    several = ranks.size > 1
    if ranks.announced:
        end_without_launcher(signal.SIGKILL if ranks.replaceable else signal.SIGTERM)

    with told_to_others(ranks) if several else nullcontext():
        config = _load(load)
        chosen = choose_device(device or config.run.device, ranks.local_rank)
        same = {**start, "LOCAL_WORLD_SIZE": ranks.local_size}
        account = account_of(config.model_dump(mode="json"), chosen.type, same) if several else {}

    world = World(ranks.rank, ranks.size, ranks.local_rank, ranks.local_size, chosen)
    with ExitStack() as stack:
        store = pulse = None
        if several:
            store = connect(ranks, config.run.hang_seconds)
            answer(store, ranks, account, config.run.hang_seconds)
            pulse = stack.enter_context(Pulse(world, store, config.run.collective_seconds))

        _join(world, store, pulse, config.run, stack)
        yield config, world


def _load(load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error} for {sys.executable}; install what the program needs, alike on all nodes"
        ) from error


def _join(world: World, store: dist.Store | None, pulse: Pulse | None, run: "RunConfig", stack: ExitStack) -> None:
    """Joins the process group for as long as `stack` is open."""
    with HangWatchdog(world, store, run.hang_seconds) as watch:
        watch.beat("joining of the ranks")
        try:
            stack.enter_context(start_world(world, store, run.collective_seconds))
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            problem = (
                f"{world.name} cannot connect to the others ({reason}); each node must reach every other at any port "
                "(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME: over which network)"
            )
            if pulse is not None:
                pulse.give_up(problem)
            raise RunError(problem) from error
