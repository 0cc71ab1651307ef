"""Initial weights as a function of (seed, name) alone: the same at every world size, under every plan.

A table's rows are drawn in blocks, each from its own seed, so that a rank draws only the blocks that it holds.
"""

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from data.hashing import stable_seed
from models.tables import TableConfig, table_key
from trainer.sharding.replicas import as_sharded_tensor

BLOCK_ROWS = 1 << 14


def initialise_dense(module: nn.Module, seed: int) -> None:
    """Redraws every parameter that has a `reset_parameters` above it, each module from its own seed."""
    for name, part in module.named_modules():
        reset = getattr(part, "reset_parameters", None)
        if reset is None:
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed(seed, "dense", name))
            reset()


def initialise_tables(model: DistributedModelParallel, tables: tuple[TableConfig, ...], seed: int) -> None:
    """Draws the rows of this rank's shards, uniform in ±init."""
    table_of = {table_key(table.name): table for table in tables}
    for name, value in model.state_dict().items():
        tensor = as_sharded_tensor(value)
        if not isinstance(tensor, ShardedTensor):
            continue
        table = table_of[name.split(".")[-2]]
        for shard in tensor.local_shards():
            _draw_rows(shard, table, seed)


def _draw_rows(shard: Shard, table: TableConfig, seed: int) -> None:
    """Fills a shard of some rows, and some columns, of a table."""
    first, first_column = shard.metadata.shard_offsets
    rows, width = shard.metadata.shard_sizes
    columns = slice(first_column, first_column + width)
    for block in range(first // BLOCK_ROWS, -(-(first + rows) // BLOCK_ROWS)):
        generator = torch.Generator().manual_seed(stable_seed(seed, "table", table.name, block))
        values = torch.empty(BLOCK_ROWS, table.dim)
        values.uniform_(-table.init, table.init, generator=generator)

        # The whole block is drawn, whatever of it the shard holds: so a row has the same weights under every plan.
        block_begin = block * BLOCK_ROWS
        begin = max(first, block_begin)
        end = min(first + rows, block_begin + BLOCK_ROWS)
        drawn = values[begin - block_begin : end - block_begin, columns]
        shard.tensor.detach()[begin - first : end - first].copy_(drawn)
