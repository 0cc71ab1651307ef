"""A checkpoint is copied to host memory, so that training can go on while it is written."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.remote_device import _remote_device


class Stager:
    """Copies a state to host memory, into the same buffers each time: fresh pages would double the time.

    The buffers are made here: torch's own stager makes them from deep copies, and a shard is a view of the storage that
    all tables share.
    """

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._stager = BlockingAsyncStager(cache_staged_state_dict=True)

    def stage(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """A copy that training does not touch, until the next call."""
        if self._stager.state_dict_cache is None:
            self._stager.state_dict_cache = self._on_host(tensors)
        return self._stager.stage(tensors)

    def _on_host(self, value: Any) -> Any:
        """The same structure with buffers of its own in host memory."""
        if isinstance(value, dict):
            return {key: self._on_host(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self._on_host, value))
        if isinstance(value, ShardedTensor):
            return self._shards_on_host(value)
        if isinstance(value, torch.Tensor):
            return torch.empty(value.shape, dtype=value.dtype, pin_memory=self._pinned)

        return value

    def _shards_on_host(self, tensor: ShardedTensor) -> ShardedTensor:
        def on_host(shard: ShardMetadata) -> ShardMetadata:
            placement = cast(_remote_device, shard.placement)
            return replace(shard, placement=_remote_device(f"rank:{placement.rank()}/cpu"))

        shards = [Shard(self._on_host(shard.tensor), on_host(shard.metadata)) for shard in tensor.local_shards()]
        metadata = tensor.metadata()
        of_all_ranks = [on_host(shard) for shard in metadata.shards_metadata]

        return ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, replace(metadata, shards_metadata=of_all_ranks), process_group=tensor._process_group
        )
