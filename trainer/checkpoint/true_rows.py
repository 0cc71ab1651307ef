"""Tensors of a checkpoint: of one copy of the tables, without the rows that they hold beyond their own.

So a checkpoint has the same shapes whatever ranks and plan wrote it. The shards are views: what is read into them is in
the model.
"""

from dataclasses import replace
from typing import Any

from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor

from models.embedding import FeatureLayer
from models.tables import weight_name
from trainer.sharding.replicas import as_sharded_tensor


def without_padding(tensors: dict[str, Any], features: FeatureLayer) -> dict[str, Any]:
    """The same structure; `tensors` are those of a whole model, and of its optimizer where it is there."""
    model = {name: as_sharded_tensor(value) for name, value in tensors["model"].items()}
    without = {"model": model}
    states: dict[str, Any] = {}
    if "optimizer" in tensors:
        states = {
            name: {key: as_sharded_tensor(value) for key, value in state.items()}
            for name, state in tensors["optimizer"]["state"].items()
        }
        without["optimizer"] = tensors["optimizer"] | {"state": states}

    for table in features.tables:
        held = features.rows_held[table.name]
        if held == table.rows:
            continue

        name = weight_name(table.name)
        model[name] = _first_rows(model[name], table.rows, held)
        state = states.get(f"sparse.{name}", {})
        states |= {f"sparse.{name}": {key: _first_rows(value, table.rows, held) for key, value in state.items()}}

    return without


def _first_rows(tensor: ShardedTensor, rows: int, held: int) -> ShardedTensor:
    """The first `rows` of every `held` rows; shards that hold none of them are left out."""
    metadata = tensor.metadata()
    shards = [
        Shard(shard.tensor[: shorter.shard_sizes[0]], shorter)
        for shard in tensor.local_shards()
        if (shorter := _cut(shard.metadata, rows, held)) is not None
    ]
    of_all_ranks = [shorter for shard in metadata.shards_metadata if (shorter := _cut(shard, rows, held)) is not None]
    size = type(metadata.size)([metadata.size[0] // held * rows, *metadata.size[1:]])
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, replace(metadata, shards_metadata=of_all_ranks, size=size), process_group=tensor._process_group
    )


def _cut(shard: ShardMetadata, rows: int, held: int) -> ShardMetadata | None:
    block, first = divmod(shard.shard_offsets[0], held)
    kept = min(shard.shard_sizes[0], rows - first)
    if kept <= 0:
        return None
    offsets = [block * rows + first, *shard.shard_offsets[1:]]
    return replace(shard, shard_offsets=offsets, shard_sizes=[kept, *shard.shard_sizes[1:]])
