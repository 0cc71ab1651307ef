"""What each rank of this machine can do where all of them work at once: the figures that a plan for CPUs goes by.

As many processes as the machine would have ranks, with the threads that they would have, each at the same thing at the
same time: products, copies, fbgemm's lookups and updates, an all-to-all. It takes some ten seconds.
"""

import multiprocessing
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen

from benchmarks.machine import Product, meet
from benchmarks.parts import copy_rate, timed
from trainer.distributed.world import World, start_world
from trainer.process.host import keep_freed_memory

MOST_PROCESSES = 8
"""Measured at once; of more ranks, each is taken to have its share of what these have."""
_TABLES, _ROWS, _BAGS, _IDS = 4, 250_000, 2048, 20
_DIMS = (16, 128)
"""Two widths tell the cost of an id from that of its bytes."""
_SKEW = 3
"""As in `benchmarks.random_rows`."""
_EXCHANGED = 1 << 22
"""Floats that a rank sends in all."""
_PRODUCTS = 8


@dataclass(frozen=True)
class Rates:
    """Of one rank, where all ranks work."""

    flops: float
    """Per second, of a large float32 product."""
    copied: float
    """Bytes per second, read or written."""
    exchanged: float
    """Bytes per second to other ranks; as `copied` where there are none."""
    lookup_row_seconds: float
    lookup_byte_seconds: float
    update_row_seconds: float
    update_byte_seconds: float
    processes: int
    threads: int


def measure_rates(ranks: int) -> Rates:
    """Figures of one of `ranks` ranks that share this machine."""
    processes = min(ranks, MOST_PROCESSES)
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // ranks)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.rates"])

    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(processes, mp_context=context) as pool:
        store = str(Path(folder) / "store")
        jobs = [pool.submit(_measure, rank, processes, threads, store) for rank in range(processes)]
        rates = jobs[0].result()
        for job in jobs[1:]:
            job.result()

    return _shared(rates, ranks / processes)


def _shared(rates: Rates, ranks: float) -> Rates:
    """Of one of `ranks` ranks that do the work of one."""
    return Rates(
        flops=rates.flops / ranks,
        copied=rates.copied / ranks,
        exchanged=rates.exchanged / ranks,
        lookup_row_seconds=rates.lookup_row_seconds * ranks,
        lookup_byte_seconds=rates.lookup_byte_seconds * ranks,
        update_row_seconds=rates.update_row_seconds * ranks,
        update_byte_seconds=rates.update_byte_seconds * ranks,
        processes=rates.processes,
        threads=rates.threads,
    )


def _measure(rank: int, size: int, threads: int, store: str) -> Rates:
    torch.set_num_threads(threads)
    keep_freed_memory()
    world = World(rank, size, rank, size, torch.device("cpu"))
    with start_world(world, dist.FileStore(store, size)):
        copied = copy_rate(world)
        narrow, wide = (_bag_seconds(dim, world) for dim in _DIMS)
        lookup = _row_and_byte(narrow[0], wide[0])
        update = _row_and_byte(narrow[1], wide[1])
        return Rates(
            flops=_product_rate(world),
            copied=copied,
            exchanged=_exchange_rate(world) if size > 1 else copied,
            lookup_row_seconds=lookup[0],
            lookup_byte_seconds=lookup[1],
            update_row_seconds=update[0],
            update_byte_seconds=update[1],
            processes=size,
            threads=threads,
        )


def _row_and_byte(narrow: float, wide: float) -> tuple[float, float]:
    """Seconds of an id and of each byte of its row, from those of ids of both widths."""
    ids = _TABLES * _BAGS * _IDS
    byte = max(wide - narrow, 0.0) / (ids * 4 * (_DIMS[1] - _DIMS[0]))
    return narrow / ids - byte * 4 * _DIMS[0], byte


def _product_rate(world: World) -> float:
    product = Product(world.device)
    rates = []
    for _ in range(_PRODUCTS):
        meet(world)
        rates.append(product.flops_per_second())
    return statistics.median(rates)


def _bag_seconds(dim: int, world: World) -> tuple[float, float]:
    """Of a lookup, and of the update that follows, by the kernel that trains tables on CPUs."""
    bags = SplitTableBatchedEmbeddingBagsCodegen(
        [(_ROWS, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)] * _TABLES,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    )
    for weights in bags.split_embedding_weights():
        torch.nn.init.uniform_(weights, -0.05, 0.05)

    ids = (_ROWS * torch.rand(_TABLES * _BAGS * _IDS) ** _SKEW).long()
    offsets = torch.arange(0, len(ids) + 1, _IDS)
    pooled: list[torch.Tensor] = []

    def look_up() -> None:
        pooled[:] = [bags(ids, offsets)]

    gradient = torch.ones(_BAGS, _TABLES * dim)

    def update() -> None:
        pooled[0].backward(gradient)

    return timed(look_up, world), timed(update, world, prepare=look_up)


def _exchange_rate(world: World) -> float:
    """Bytes per second that a rank sends to the others."""
    sent = torch.ones(_EXCHANGED // world.size * world.size)
    received = torch.empty_like(sent)
    seconds = timed(lambda: dist.all_to_all_single(received, sent), world)
    return 4 * len(sent) * (world.size - 1) / world.size / seconds
