"""Several copies of all tables, each spread over a share of the ranks: TorchRec's 2D parallelism.

    4 ranks, sharding.replicas = 2         exchange of embeddings      averaging
    copy 0   ranks 0 2                     0 ↔ 2                       0 ↔ 1
    copy 1   ranks 1 3                     1 ↔ 3                       2 ↔ 3

Each copy is trained by the samples of its own ranks; the copies are averaged, optimizer state included, on the samples
clock. Ranks with the same part of a table are neighbours, on one node. A checkpoint holds one copy.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed.remote_device import _remote_device
from torch.distributed.tensor import DTensor
from torchrec.distributed.model_parallel import DMPCollection

from trainer.clock import Due
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.sharding.plan import Ranks, process_group
from trainer.sharding.settings import ShardingConfig


class Averaging(NamedTuple):
    """When the copies are averaged."""

    model: DMPCollection
    batch: int
    """Samples of a global batch."""
    due: Due | None
    """None: after every step."""

    def after_step(self, begin: int, *, at_rest: bool) -> None:
        """Averages if that is due after the batch that begins at `begin` samples, or the model is to be evaluated or
        saved. Collective.
        """
        if at_rest or self.due is None or self.due(begin + self.batch):
            self.model.sync()


def as_sharded_tensor(value: Any) -> Any:
    """A DTensor of one copy's shards as the ShardedTensor of a model with one copy; anything else as it is.

    The shards are views. Collective over the ranks of the copy.
    """
    if not isinstance(value, DTensor):
        return value

    local: Any = value.to_local()  # torch's LocalShardsWrapper
    copy = value.device_mesh.get_group("shard")
    rank = dist.get_rank()
    shards = [
        Shard(tensor, ShardMetadata(list(offsets), list(tensor.shape), _place(rank, tensor.device)))
        for tensor, offsets in zip(local.local_shards(), local.local_offsets(), strict=True)
    ]
    return ShardedTensor._init_from_local_shards(shards, *value.shape, process_group=copy)


def _place(rank: int, device: torch.device) -> _remote_device:
    return _remote_device(f"rank:{rank}/{device}")


def ranks_of_copy(config: ShardingConfig, ranks: Ranks) -> Ranks:
    """The ranks that a copy of the tables is spread over; raises ConfigError if they cannot be alike."""
    if ranks.local_size % config.replicas:
        raise ConfigError(
            f"sharding.replicas = {config.replicas} does not divide the {ranks.local_size} ranks of a node, on which "
            "the same part of each copy lies; use a divisor"
        )
    return replace(ranks, size=ranks.size // config.replicas, local_size=ranks.local_size // config.replicas)


def copies_of_tables(parts: dict[str, Any], world: World, ranks: Ranks) -> DMPCollection:
    """The sharded model from the arguments of TorchRec's DistributedModelParallel, in copies on `ranks` each."""
    return DMPCollection(
        world_size=world.size,
        sharding_group_size=ranks.size,
        global_pg=process_group(),
        node_group_size=ranks.local_size,
        **parts,
    )


def averaging(model: DMPCollection, config: ShardingConfig, batch: int, end: int) -> Averaging:
    """When the copies in `model` are averaged in a training to `end` samples."""
    every = config.replica_sync_samples
    return Averaging(model, batch, None if every is None else Due(batch=batch, end=end, every=every))
