"""The ranks of this run. The one place that chooses the device."""

import logging
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import (  # there is no public way to the groups of a process, or to their limit
    _set_pg_timeout,
    _world,
)

from data.errors import ExpectedError
from trainer.errors import DISK_FULL, ConfigError, RunError, file_error
from trainer.process.host import keep_freed_memory

Result = TypeVar("Result")
EXPECTED_ERRORS = (ExpectedError, RunError)
"""End a run with one line; whatever else is raised is a bug, and ends its rank with a traceback."""
OWN_GROUP = "World.with_own_group"
DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class World:
    """Who this process is among the ranks, and what it computes on."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    """Where objects and flags are exchanged; None: the default group."""

    def with_own_group(self) -> "World":
        """These ranks in a process group of their own, apart from other collectives under way. Collective."""
        return replace(self, group=dist.new_group(backend="gloo", group_desc=OWN_GROUP))

    @property
    def name(self) -> str:
        """`rank 1 (host node-1)`, for messages."""
        return f"rank {self.rank} (host {socket.gethostname()})"

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank writes and prints."""
        return self.rank == 0

    @property
    def gpu_bytes(self) -> int | None:
        """Memory of this rank's GPU; None on a CPU."""
        return torch.cuda.get_device_properties(self.device).total_memory if self.device.type == "cuda" else None

    @property
    def generator(self) -> torch.Generator:
        """The default one of the device. `torch.manual_seed` seeds every device's, at 0.1 to 0.7 ms a step."""
        return torch.default_generator if self.device.type == "cpu" else torch.cuda.default_generators[self.local_rank]

    @property
    def runs_ahead(self) -> bool:
        """Whether the host prepares the next step while the device computes, and learns of a step one step later."""
        return self.device.type == "cuda"

    def lanes(self, lanes: int) -> range:
        """The lanes that this rank serves."""
        share = lanes // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def on_rank_zero(self, function: Callable[[], Result]) -> Result:
        """Result of `function`, run on rank 0 only; an expected error is raised on all. Collective."""
        result: Any = None
        error: ExpectedError | RunError | None = None
        if self.is_rank_zero:
            try:
                result = function()
            except (*EXPECTED_ERRORS, OSError) as caught:
                error = _expected(caught)

        # Sent whether it went well or not: a rank 0 that left at once would leave the others waiting here.
        message = [result, error]
        dist.broadcast_object_list(message, src=0, group=self.group)
        result, error = message
        if error is not None:
            raise error
        return result

    def raise_on_all_ranks(self, function: Callable[[], Result]) -> Result:
        """Result of `function` on this rank; an expected error of any rank is raised on all. Collective.

        If all goes well it costs no more than a small all-reduce on the host.
        """
        error: ExpectedError | RunError | None = None
        try:
            result = function()
        except (*EXPECTED_ERRORS, OSError) as caught:
            error = _expected(caught)

        # Every rank learns how many have failed; only then are the errors themselves exchanged.
        num_failed = self.sum(torch.tensor([error is not None], dtype=torch.int64)).item()
        if num_failed:
            errors = [entry for entry in self.gather(error) if entry is not None]
            raise errors[0]
        return result

    def gather(self, value: Result) -> list[Result]:
        """Every rank's value, on all. Collective: call on all ranks."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def joined(self, value: Result, join: Callable[[Result, Result], None]) -> Result:
        """On rank 0 all ranks' values, added to one another by `join`; elsewhere what has been joined on the way.

        Pair by pair, so that no rank holds more than two. Collective: call on all ranks.
        """
        step = 1
        while step < self.size:
            place = self.rank % (2 * step)
            message: list[Any] = [value]
            if place == step:
                dist.send_object_list(message, self.rank - step, group=self.group, device=torch.device("cpu"))
            elif place == 0 and self.rank + step < self.size:
                dist.recv_object_list(message, self.rank + step, group=self.group, device=torch.device("cpu"))
                join(value, message[0])
            step *= 2
        return value

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, in place. Collective: call on all ranks."""
        dist.all_reduce(tensor, group=self.group)
        return tensor

    def concatenate(self, tensor: torch.Tensor) -> torch.Tensor:
        """All ranks' tensors, alike in shape, end to end by rank. Collective: call on all ranks."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor, group=self.group)
        return torch.cat(parts)

    def exchange(self, tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Sends the first counts[0] entries of `tensor` to rank 0, the next counts[1] to rank 1, and so on.

        Returns the entries received, end to end by the rank that sent them. Collective: call on all ranks.
        """
        counts_sent = torch.tensor(counts, device=tensor.device)
        counts_received = torch.empty_like(counts_sent)
        # First how many, so that every rank can make room for them.
        dist.all_to_all_single(counts_received, counts_sent, group=self.group)

        sizes = counts_received.tolist()
        received = tensor.new_empty(sum(sizes))
        dist.all_to_all_single(received, tensor, sizes, counts, group=self.group)
        return received


def _expected(error: ExpectedError | RunError | OSError) -> ExpectedError | RunError:
    """The error as a user gets it. Raises an OSError that is of no file as it is: that is a bug."""
    if not isinstance(error, OSError):
        return error
    if error.filename is None and error.errno not in DISK_FULL:
        raise error
    return file_error(error)


@contextmanager
def start_world(world: World, store: dist.Store | None, connect_seconds: float) -> Iterator[None]:
    """Joins the process group of all ranks, who meet at `store`, or one of a single rank; leaves it at a good end.

    RuntimeError: the ranks are not connected within `connect_seconds`. Later a collective may take longer: while rank
    0 works alone the others wait in one, and whoever is lost meanwhile is missed by `trainer.distributed.pulse`.
    """
    _quiet_libraries()
    dist.init_process_group(
        "cuda:nccl,cpu:gloo" if world.device.type == "cuda" else "gloo",
        store=store or dist.HashStore(),
        rank=world.rank,
        world_size=world.size,
        timeout=timedelta(seconds=connect_seconds),
    )
    barrier()
    _set_pg_timeout(default_pg_timeout)
    yield
    dist.destroy_process_group()  # not after an error: the other ranks may be elsewhere


def leave_own_groups() -> None:
    """Leaves all groups of `World.with_own_group`, with their threads and sockets. Collective: call on all ranks."""
    for group in list(_world.pg_map):
        if group.group_desc == OWN_GROUP:
            dist.destroy_process_group(group)


def barrier() -> None:
    """Waits until every rank has joined: one that leaves at once, over wrong input, breaks the others' connecting."""
    dist.all_reduce(torch.zeros(1))


def choose_device(device: DeviceName = "auto", local_rank: int = 0) -> torch.device:
    """The device of this process, made ready."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("run.device is 'cuda', but no GPU is visible here; use 'auto' or 'cpu'")

    if device != "cpu" and torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK={local_rank}, but only {torch.cuda.device_count()} GPUs are visible on host "
                f"{socket.gethostname()}; start one rank a GPU"
            )

        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
        return chosen

    keep_freed_memory()
    return torch.device("cpu")


def _quiet_libraries() -> None:
    """Silences what torchrec and torch say about themselves, and their own use of each other."""
    logging.getLogger("torchrec").setLevel(logging.ERROR)  # it warns of every group that it makes
    warnings.filterwarnings(
        "ignore", message="find_unused_parameters=True was specified"
    )  # trainer.build_model says why
    # Told of the module that calls: torch.distributed.checkpoint hands out no other kind of table.
    warnings.filterwarnings("ignore", message="Please use DTensor instead")
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(torch|torchrec|fbgemm_gpu)\.")
