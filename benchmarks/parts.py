"""The parts of a training step, each alone, and the limit of each: what a step spends its time on, and must.

    reading   the stream to ready batches                          limit: `adatt bench data`
    lookup    ids → embeddings, with what ranks exchange for it    limit: the rows' bytes at the rate of a plain copy
    update    gradients → rows of tables, likewise                 limit: the same, where each row is read and written
    head      forward and backward                                 limit: its FLOPs at the rate of a matrix product

Of lookup and update together, an all-to-all of as many bytes as are exchanged is the part that goes between ranks. All
ranks do the same part at the same time. A step takes less than the sum where parts run beside each other.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.distributed as dist

from benchmarks.machine import meet, synchronise
from data.batch import Batch
from data.reading import Reading
from models.ranker import Ranker
from models.tables import TableConfig
from trainer.build_model import ShardedModel
from trainer.config.run_config import Config
from trainer.distributed.world import World

ROUNDS = 5
_WARM_UP_ROUNDS = 2
_READY_BATCHES = 128
"""Gathered ahead by a stream, or about so many."""
_COPY_BYTES = 1 << 28
"""Of the plain copy: more than caches hold."""
PARTS = ("reading", "lookup", "update", "head")


def bench_parts(
    config: Config, world: World, sharded: ShardedModel, reading: Reading, feed: Iterator[Batch]
) -> dict[str, float | str]:
    """Seconds of a step's parts, medians; the pipeline is of no use afterwards. Collective: call on all ranks.

    `feed`: the stream of `reading`.
    """
    # Its forward pass would take embeddings that the pipeline has looked up beforehand.
    sharded.pipeline.detach()
    held = next(feed).to(world.device)
    ranker = cast(Ranker, sharded.model.module)
    layer = ranker.features
    features_BF = layer(held.sparse, held.dense_BD).detach()
    head = ranker.head

    sums: list[torch.Tensor] = []

    def look_up() -> None:
        sums[:] = [layer(held.sparse, held.dense_BD).sum()]

    def update() -> None:
        sums[0].backward()

    def run_head() -> None:
        head(features_BF.requires_grad_()).sum().backward()

    # What the stream has ready is taken first.
    block_rows = min(reading.block_rows or 0, int(reading.manifest.rows.max()))
    ahead = (len(world.lanes(reading.lanes)) + config.data.threads) * block_rows // len(held.weights_B)
    for _ in range(ahead + _READY_BATCHES):
        next(feed)

    reading_seconds = timed(lambda: next(feed), world, repeats=max(ahead // 2, 8))
    limit = _row_bytes(config, held) / copy_rate(world)
    seconds: dict[str, float] = {
        "reading_seconds": reading_seconds,
        "lookup_seconds": timed(look_up, world),
        "lookup_limit_seconds": limit,
        "update_seconds": timed(update, world, prepare=look_up),
        "update_limit_seconds": 2 * limit,
        "exchange_limit_seconds": timed(_exchange(config, world, held), world) if world.size > 1 else 0.0,
        "head_seconds": timed(run_head, world),
    }
    return {**seconds, "bottleneck": max(PARTS, key=lambda part: seconds[f"{part}_seconds"])}


def timed(
    function: Callable[[], object], world: World, repeats: int = 1, prepare: Callable[[], object] = lambda: None
) -> float:
    """The median over rounds of the slowest rank; what `prepare` does is not counted."""
    found = []
    for _ in range(_WARM_UP_ROUNDS + ROUNDS):
        prepare()
        meet(world)
        begin = time.perf_counter()
        for _ in range(repeats):
            function()
        synchronise(world.device)
        meet(world)
        found.append((time.perf_counter() - begin) / repeats)
    return statistics.median(found[_WARM_UP_ROUNDS:])


def _dims(config: Config) -> list[int]:
    tables: dict[str, TableConfig] = {table.name: table for table in config.tables_held}
    return [tables[feature.table].dim for feature in config.features.sparse]


def _row_bytes(config: Config, batch: Batch) -> float:
    """Of the rows that a rank looks up: on average, those of its own batch."""
    ids_S = batch.sparse.lengths().view(len(config.features.sparse), -1).sum(dim=1).tolist()
    return sum(4 * dim * ids for dim, ids in zip(_dims(config), ids_S, strict=True))


def copy_rate(world: World) -> float:
    """Bytes per second that a copy reads or writes, all ranks copying at once."""
    source = torch.ones(_COPY_BYTES // 4, device=world.device)
    target = torch.ones_like(source)
    return 2 * _COPY_BYTES / timed(lambda: target.copy_(source), world)


def _exchange(config: Config, world: World, batch: Batch) -> Callable[[], None]:
    """Ids to the ranks that have their tables, embeddings back, and their gradients there again."""
    per_rank = len(batch.weights_B) * sum(_dims(config)) // world.size
    pooled = torch.ones(per_rank * world.size, device=world.device)
    all_ids = int(world.sum(torch.tensor([batch.sparse.values().numel()], device=world.device)))
    per_pair = all_ids // world.size**2
    ids = torch.ones(per_pair * world.size, dtype=torch.int64, device=world.device)
    received = [torch.empty_like(ids), torch.empty_like(pooled)]

    def exchange() -> None:
        dist.all_to_all_single(received[0], ids)
        dist.all_to_all_single(received[1], pooled)
        dist.all_to_all_single(received[1], pooled)

    return exchange
