"""The ways to place each table that the planner may choose from, with all the memory that they take."""

from typing import Any, cast

import torch
from torch import nn
from torchrec import EmbeddingBagCollection
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.types import ParameterConstraints, ShardingOption, Storage
from torchrec.distributed.types import ModuleSharder, ParameterSharding, ShardingEnv

from models.tables import table_key
from trainer.sharding.communication import codecs
from trainer.sharding.memory import state_bytes, weight_bytes
from trainer.sharding.optimizers import fused_params
from trainer.sharding.settings import (
    FALLBACK,
    ShardedTableConfig,
    ShardingConfig,
    SparseOptimizerConfig,
)

_TORCHREC_NAMES = {"grid": "grid_shard"}
"""Of what a config calls otherwise."""


def torchrec_name(sharding: str) -> str:
    """What torchrec calls a way to place a table."""
    return _TORCHREC_NAMES.get(sharding, sharding)


class FusedSharder(EmbeddingBagCollectionSharder):
    """Offers the planner what any table may be placed by, on every device, each with its own kernel only."""

    def __init__(
        self,
        tables: tuple[ShardedTableConfig, ...],
        sharding: ShardingConfig,
        optimizer: SparseOptimizerConfig,
        global_batch_size: int,
    ) -> None:
        super().__init__(qcomm_codecs_registry=codecs(sharding.communication, global_batch_size))
        self.tables = tables
        self.allow = sharding.allow
        self.memory = sharding.memory
        self.optimizer = optimizer
        self.named = {
            table_key(table.name): torchrec_name(table.sharding) for table in tables if table.sharding != "auto"
        }
        self._global_batch_size = global_batch_size

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedEmbeddingBagCollection:
        """The tables on their ranks, each with its own optimizer, for which torchrec looks in its weight."""
        for table in self.tables:
            weight = cast(Any, module.embedding_bags[table_key(table.name)].weight)
            weight._optimizer_kwargs = [fused_params(self.optimizer.of(table), self._global_batch_size)]
        return super().shard(module, params, env, device, module_fqn)

    def may_place(self, key: str, sharding: str) -> bool:
        """Whether the config asks for a table to be placed so."""
        named = self.named.get(key)
        return sharding in self.allow if named is None else sharding == named

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """The config's choice and what it falls back on; torchrec's list for CPUs lacks row-wise, which works there."""
        return list(dict.fromkeys((*self.allow, FALLBACK, *self.named.values())))

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """Fused, all of them: the optimizer runs in the backward pass."""
        return list(dict.fromkeys(table.kernel for table in self.tables))


class Enumerator(EmbeddingEnumerator):
    """Offers a table that names its sharding no other, and the others what `sharding.allow` says.

    Splits that leave a rank with an empty shard are not among them. A split by rows gives every rank ceil(rows / ranks)
    rows, so that none may be left for the last ones (3, 5, 6 or 9 rows on 4 ranks). fbgemm's backward pass on CPUs
    tells tables apart by where their rows begin: it takes one without rows and the next for the same table, and
    updates wrong rows in silence; a rank without any row looks for a GPU (see `docs/architecture.md`).
    """

    def __init__(
        self, topology: Topology, batch_size: int, tables: tuple[ShardedTableConfig, ...], *, saves: bool
    ) -> None:
        constraints = {table_key(table.name): _constraints(table) for table in tables}
        super().__init__(topology, batch_size, constraints)
        self._on_gpu = topology.compute_device == "cuda"
        self._saves = saves

    def enumerate(self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]) -> list[ShardingOption]:
        """The options in torchrec's order, which decides between equals."""
        (sharder,) = sharders
        assert isinstance(sharder, FusedSharder)
        options = [option for option in super().enumerate(module, sharders) if _fills_all_shards(option)]

        # A table for which no allowed way is left is not split: it lies on one rank, whatever sharding.allow says.
        tables_asked = {option.name for option in options if sharder.may_place(option.name, option.sharding_type)}
        chosen = []
        for option in options:
            falls_back = option.name not in tables_asked and option.sharding_type == FALLBACK
            if falls_back or sharder.may_place(option.name, option.sharding_type):
                chosen.append(option)

        tables = {table_key(table.name): table for table in sharder.tables}
        for option in chosen:
            table = tables[option.name]
            optimizer = sharder.optimizer.of(table).name
            for shard in option.shards:
                assert shard.storage is not None
                rows, dim = shard.size
                weights, state = weight_bytes(rows, dim, table.dtype), state_bytes(rows, dim, optimizer)
                shard.storage += self._storage_beside(table, weights, state)

        return chosen

    def _storage_beside(self, table: ShardedTableConfig, weights: int, state: int) -> Storage:
        """Bytes beside a shard's weights: the optimizer's state, and the host's copy of both that a save makes."""
        copy = weights + state if self._saves else 0
        is_on_gpu = self._on_gpu and table.kernel == "fused"
        return Storage(hbm=state, ddr=copy) if is_on_gpu else Storage(hbm=0, ddr=state + copy)


def _fills_all_shards(option: ShardingOption) -> bool:
    return all(shard.size[0] > 0 for shard in option.shards)


def _constraints(table: ShardedTableConfig) -> ParameterConstraints:
    named = None if table.sharding == "auto" else [torchrec_name(table.sharding)]
    return ParameterConstraints(
        sharding_types=named,
        compute_kernels=[table.kernel],
        min_partition=table.dim // table.column_shards if table.column_shards > 1 else None,
    )
