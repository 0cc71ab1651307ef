"""What each rank of this machine can do where all of them work at once: the figures that a plan for CPUs goes by.

As many processes as the machine would have ranks, with the threads that they would have, each at the same thing at the
same time: a head, copies, fbgemm's lookups and updates, an all-to-all. It takes some ten seconds.
"""

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen

from benchmarks.parts import copy_rate, timed
from models.columns import Columns
from models.cost import head_cost
from models.heads.base import ROWS_IN_CACHE, HeadConfig
from trainer.distributed.world import World, start_world
from trainer.process.host import keep_freed_memory

MOST_PROCESSES = 8
"""Measured at once; of more ranks, each is taken to have its share of what these have."""
_MOST_ROWS, _MOST_BAGS, _MOST_IDS = 500_000, 4096, 50
"""Of the tables that are measured: the cost of an id hardly changes beyond."""
_SKEW = 3
"""As in `benchmarks.random_rows`."""
_EXCHANGED = 1 << 22
"""Floats that a rank sends in all."""


@dataclass(frozen=True)
class Shape:
    """What is measured, alike to what will be trained."""

    head: HeadConfig
    columns: Columns
    tasks: tuple[str, ...]
    table_rows: int
    dim: int
    features_of_tables: tuple[int, ...]
    """A table for each: ids of several features of one table cost less than half of as many of as many tables."""
    bags: int
    """Rows of all ranks: what a rank pools for each table that it has."""
    ids_per_bag: int


@dataclass(frozen=True)
class Rates:
    """Of one rank, where all ranks work."""

    head_flops: float
    """Per second, that the head reaches, forward and backward."""
    copied: float
    """Bytes per second, read or written."""
    exchanged: float
    """Bytes per second to other ranks; as `copied` where there are none."""
    lookup_seconds: float
    """Of each id."""
    update_seconds: float
    """Of each id."""
    processes: int
    threads: int


def measure_rates(ranks: int, shape: Shape) -> Rates:
    """Figures of one of `ranks` ranks that share this machine.

    Each has its share of the cores as threads, or OMP_NUM_THREADS if that is less.
    """
    processes = min(ranks, MOST_PROCESSES)
    cores = len(os.sched_getaffinity(0))
    threads = min(torch.get_num_threads(), max(1, cores // ranks))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.rates"])

    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(processes, mp_context=context) as pool:
        store = str(Path(folder) / "store")
        jobs = [pool.submit(_measure, rank, processes, threads, shape, store) for rank in range(processes)]
        rates = [job.result() for job in jobs]

    return _shared(rates[0], ranks / processes)


def _shared(rates: Rates, ranks: float) -> Rates:
    """Of one of `ranks` ranks that do the work of one."""
    return replace(
        rates,
        head_flops=rates.head_flops / ranks,
        copied=rates.copied / ranks,
        exchanged=rates.exchanged / ranks,
        lookup_seconds=rates.lookup_seconds * ranks,
        update_seconds=rates.update_seconds * ranks,
    )


def _measure(rank: int, size: int, threads: int, shape: Shape, store: str) -> Rates:
    torch.set_num_threads(threads)
    keep_freed_memory()
    world = World(rank, size, rank, size, torch.device("cpu"))
    with start_world(world, dist.FileStore(store, size), 60):
        copied = copy_rate(world)
        lookup, update = _id_seconds(shape, world)
        return Rates(
            head_flops=_head_rate(shape, world),
            copied=copied,
            exchanged=_exchange_rate(world) if size > 1 else copied,
            lookup_seconds=lookup,
            update_seconds=update,
            processes=size,
            threads=threads,
        )


def _head_rate(shape: Shape, world: World) -> float:
    """FLOP/s of the head, on as many rows as it takes at once."""
    head = shape.head.build_for(shape.columns, shape.tasks)
    features_BF = torch.randn(ROWS_IN_CACHE, shape.columns.width, requires_grad=True)
    seconds = timed(lambda: head(features_BF).sum().backward(), world)
    return ROWS_IN_CACHE * head_cost(shape.head, shape.columns, shape.tasks).training_flops / seconds


def _id_seconds(shape: Shape, world: World) -> tuple[float, float]:
    """Of a lookup, and of the update that follows, by the kernel that trains tables on CPUs."""
    rows = min(shape.table_rows, _MOST_ROWS)
    num_bags = min(shape.bags, _MOST_BAGS)
    per_bag = min(shape.ids_per_bag, _MOST_IDS)
    bags = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, shape.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)] * len(shape.features_of_tables),
        feature_table_map=[table for table, count in enumerate(shape.features_of_tables) for _ in range(count)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    )
    for weights in bags.split_embedding_weights():
        torch.nn.init.uniform_(weights, -0.05, 0.05)

    features = sum(shape.features_of_tables)
    ids = (rows * torch.rand(features * num_bags * per_bag) ** _SKEW).long()
    offsets = torch.arange(0, len(ids) + 1, per_bag)
    gradient = torch.ones(num_bags, features * shape.dim)
    pooled: list[torch.Tensor] = []

    def look_up() -> None:
        pooled[:] = [bags(ids, offsets)]

    def update() -> None:
        pooled[0].backward(gradient)

    return timed(look_up, world) / len(ids), timed(update, world, prepare=look_up) / len(ids)


def _exchange_rate(world: World) -> float:
    """Bytes per second that a rank sends to the others."""
    sent = torch.ones(_EXCHANGED // world.size * world.size)
    received = torch.empty_like(sent)
    seconds = timed(lambda: dist.all_to_all_single(received, sent), world)
    return 4 * len(sent) * (world.size - 1) / world.size / seconds
