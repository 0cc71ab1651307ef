"""The program with `sharding.replicas` on CPUs, for which TorchRec's DMPCollection is not made.

    PYTHONOPTIMIZE=1 torchrun --nproc-per-node 4 -m tests.trainer.sharding.cpu_replicas train CONFIG

Without asserts it runs there, once shards are placed on "cpu" and copies are averaged with what gloo has.
"""

import sys
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.model_parallel import DMPCollection
from torchrec.distributed.types import ShardingPlan

import trainer.build_model
import trainer.sharding.replicas
from trainer.__main__ import main


class CpuCopies(DMPCollection):
    """DMPCollection over gloo."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(custom_all_reduce=self._average, **arguments)

    def _average(self, tensors: list[Tensor]) -> None:
        copies = self._default_ctx.replica_pg
        for tensor in tensors:
            dist.all_reduce(tensor, group=copies)
            tensor /= dist.get_world_size(copies)

    def _remap_sharding_plan(self, plan: ShardingPlan, **arguments: Any) -> None:
        super()._remap_sharding_plan(plan, **arguments)
        for module in plan.plan.values():
            for parameter in module.values():  # type: ignore[attr-defined]
                for shard in parameter.sharding_spec.shards:
                    shard.placement = _remote_device(f"rank:{shard.placement.rank()}/cpu")


if __name__ == "__main__":
    trainer.sharding.replicas.DMPCollection = CpuCopies  # type: ignore[misc, attr-defined]
    trainer.build_model.check_device = lambda *_: None  # type: ignore[attr-defined]
    sys.exit(main())
