"""Runs a function on N ranks: real processes, gloo over a file store (no port to race for).

A fork server that has imported torch and torchrec makes a rank start in a fraction of a second. The first failure ends
the others and shows its traceback; a hang is reported by rank at the time limit.
"""

import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.distributed.world import World, barrier

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the program does; the fork server takes it over
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["tests.ranks", "trainer.train", "trainer.evaluation.evaluate_run", "torch.utils.tensorboard", "tests.kernels"]
)


def run_on_ranks(size: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = 120) -> list[Any]:
    """`function(world, *arguments)` on every rank; the results by rank. The function must be importable."""
    with started_ranks(size, function, *arguments) as (_, receivers):
        return collect(receivers, timeout_s)


@contextmanager
def started_ranks(
    size: int, function: Callable[..., Any], *arguments: Any
) -> Iterator[tuple[list[BaseProcess], list[Connection]]]:
    """The processes of ranks that run `function(world, *arguments)`, and their results' ends; killed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        ends = [_CONTEXT.Pipe(duplex=False) for _ in range(size)]
        ranks: list[BaseProcess] = []
        for rank, (_, sender) in enumerate(ends):
            job = (sender, rank, size, str(Path(folder) / "store"), function, arguments)
            ranks.append(_CONTEXT.Process(target=_rank_main, args=job, daemon=True))
            ranks[-1].start()
            sender.close()
        try:
            yield ranks, [receiver for receiver, _ in ends]
        finally:
            for process in ranks:
                process.kill()
                process.join()


def collect(receivers: list[Connection], timeout_s: float = 120) -> list[Any]:
    """The results by rank, as they come; AssertionError with the traceback of the first that fails."""
    results: dict[int, Any] = {}
    while len(results) < len(receivers):
        waiting = {receiver: rank for rank, receiver in enumerate(receivers) if rank not in results}
        ready = wait(list(waiting), timeout_s)
        if not ready:
            raise TimeoutError(f"ranks {sorted(waiting.values())} of {len(receivers)} hang after {timeout_s} s")
        for receiver in ready:
            rank = waiting[receiver]  # type: ignore[index]
            try:
                failed, value = pickle.loads(receiver.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                failed, value = True, "the process died"
            if failed:
                raise AssertionError(f"rank {rank} of {len(receivers)} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(receivers))]


def _rank_main(
    sender: Connection, rank: int, size: int, store: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        barrier()
        world = World(rank, size, rank, size, torch.device("cpu"))
        _send(sender, failed=False, value=function(world, *arguments))
        dist.destroy_process_group()
    except BaseException:
        _send(sender, failed=True, value=traceback.format_exc())
    sys.stdout.flush()


def _send(sender: Connection, *, failed: bool, value: Any) -> None:
    """By plain pickling: torch's own sends descriptors of memory, which must be fetched before the rank ends."""
    sender.send_bytes(pickle.dumps((failed, value)))
