"""`sharding.replicas` on CPUs, for which TorchRec's DMPCollection is not made: a stand-in for GPUs.

It runs there without its asserts, once shards are placed on "cpu" and copies are averaged with what gloo has.
"""

import ast
import inspect
import sys
import textwrap
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.model_parallel import DMPCollection

import trainer.build_model
import trainer.sharding.replicas


def use_cpu_copies() -> None:
    """From now on this process trains copies of tables on CPUs."""
    copies = _copies_class(_without_asserts(DMPCollection))
    trainer.sharding.replicas.DMPCollection = copies  # type: ignore[misc, attr-defined]
    trainer.build_model.DMPCollection = copies  # type: ignore[misc, attr-defined]
    trainer.build_model.check_device = lambda *_: None  # type: ignore[attr-defined]


def _without_asserts(original: type) -> Any:
    """The same class, compiled as by `python -O`."""
    source = ast.parse(textwrap.dedent(inspect.getsource(original)))
    names = dict(vars(sys.modules[original.__module__]))
    exec(compile(source, original.__name__, "exec", optimize=1), names)
    return names[original.__name__]


def _copies_class(collection: Any) -> type:
    class CpuCopies(collection):
        """DMPCollection over gloo."""

        def __init__(self, **arguments: Any) -> None:
            super().__init__(custom_all_reduce=self._average, **arguments)

        def _average(self, tensors: list[Tensor]) -> None:
            copies = self._default_ctx.replica_pg
            for tensor in tensors:
                dist.all_reduce(tensor, group=copies)
                tensor /= dist.get_world_size(copies)

        def _remap_sharding_plan(self, plan: Any, **arguments: Any) -> None:
            super()._remap_sharding_plan(plan, **arguments)
            for module in plan.plan.values():
                for parameter in module.values():
                    for shard in parameter.sharding_spec.shards:
                        shard.placement = _remote_device(f"rank:{shard.placement.rank()}/cpu")

    return CpuCopies
