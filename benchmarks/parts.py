"""The parts of a training step, each alone, and the limit of each: what a step spends its time on, and must.

    reading      the stream to ready batches                   limit: `adatt bench data`
    embeddings   lookup, exchange between ranks, and update    limits: the bytes of their rows at the rate of a plain
                                                               copy; an all-to-all of as many bytes as are exchanged
    head         forward and backward                          limit: its FLOPs at the rate of a matrix product

All ranks do the same part at the same time. A step takes less than the sum where parts run beside each other.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.distributed as dist

from benchmarks.machine import synchronise
from data.batch import Batch
from models.ranker import Ranker
from models.tables import TableConfig
from trainer.build_model import ShardedModel
from trainer.config.run_config import Config
from trainer.distributed.world import World

ROUNDS = 5
_WARM_UP_ROUNDS = 2
_READ_AT_ONCE = 32
"""Batches: the warm-up takes more than the stream had ready."""
_COPY_BYTES = 1 << 28
"""Of the plain copy: more than caches hold."""
_TIMES_MOVED = 3
"""A row of a table is read for the lookup; read and written for the update."""
PARTS = ("reading", "embeddings", "head")


def bench_parts(config: Config, world: World, sharded: ShardedModel, feed: Iterator[Batch]) -> dict[str, float | str]:
    """Seconds of a step's parts, medians; the pipeline is of no use afterwards. Collective: call on all ranks."""
    # Its forward pass would take embeddings that the pipeline has looked up beforehand.
    sharded.pipeline.detach()
    held = next(feed).to(world.device)
    ranker = cast(Ranker, sharded.model.module)
    layer = ranker.features
    features_BF = layer(held.sparse, held.dense_BD).detach()
    head = ranker.head

    def embed() -> None:
        layer(held.sparse, held.dense_BD).sum().backward()

    def run_head() -> None:
        head(features_BF.requires_grad_()).sum().backward()

    seconds: dict[str, float | str] = {
        "reading_seconds": _timed(lambda: next(feed), world, repeats=_READ_AT_ONCE),
        "embeddings_seconds": _timed(embed, world),
        "embeddings_limit_seconds": _row_bytes(config, held) / _copy_rate(world),
        "exchange_limit_seconds": _timed(_exchange(config, world, held), world) if world.size > 1 else 0.0,
        "head_seconds": _timed(run_head, world),
    }
    seconds["bottleneck"] = max(PARTS, key=lambda part: seconds[f"{part}_seconds"])
    return seconds


def _timed(function: Callable[[], object], world: World, repeats: int = 1) -> float:
    """The median over rounds of the slowest rank."""
    found = []
    for _ in range(_WARM_UP_ROUNDS + ROUNDS):
        _meet(world)
        begin = time.perf_counter()
        for _ in range(repeats):
            function()
        synchronise(world.device)
        _meet(world)
        found.append((time.perf_counter() - begin) / repeats)
    return statistics.median(found[_WARM_UP_ROUNDS:])


def _meet(world: World) -> None:
    world.sum(torch.zeros(1, device=world.device)).cpu()


def _dims(config: Config) -> list[int]:
    tables: dict[str, TableConfig] = {table.name: table for table in config.tables}
    return [tables[feature.table].dim for feature in config.features.sparse]


def _row_bytes(config: Config, batch: Batch) -> float:
    """What a rank's share of all lookups moves, and that of the updates; on average, a rank's own batch."""
    ids_S = batch.sparse.lengths().view(len(config.features.sparse), -1).sum(dim=1).tolist()
    return sum(4 * dim * ids for dim, ids in zip(_dims(config), ids_S, strict=True)) * _TIMES_MOVED


def _copy_rate(world: World) -> float:
    """Bytes per second that a copy reads or writes, all ranks copying at once."""
    source = torch.ones(_COPY_BYTES // 4, device=world.device)
    target = torch.ones_like(source)
    return 2 * _COPY_BYTES / _timed(lambda: target.copy_(source), world)


def _exchange(config: Config, world: World, batch: Batch) -> Callable[[], None]:
    """Ids to the ranks that have their tables, embeddings back, and their gradients there again."""
    per_rank = len(batch.weights_B) * sum(_dims(config)) // world.size
    pooled = torch.ones(per_rank * world.size, device=world.device)
    ids = torch.ones(batch.sparse.values().numel() // world.size * world.size, dtype=torch.int64, device=world.device)
    received = [torch.empty_like(ids), torch.empty_like(pooled)]

    def exchange() -> None:
        dist.all_to_all_single(received[0], ids)
        dist.all_to_all_single(received[1], pooled)
        dist.all_to_all_single(received[1], pooled)

    return exchange
