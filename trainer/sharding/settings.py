"""The `[[tables]]`, `[optimizer]` and `[sharding]` sections of a config.

They need no torchrec, so that audits work without it.
"""

import math
from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from data.discovery.listing import shown_names
from data.settings import Bytes, Count, Settings
from models.tables import TableConfig

Decay = Literal["none", "linear", "cosine"]
ShardingType = Literal["table_wise", "row_wise", "table_row_wise"]
ColumnShardingType = Literal["column_wise", "table_column_wise", "grid"]
Communication = Literal["float32", "float16", "bfloat16"]
Kernel = Literal["fused", "fused_uvm_caching"]
SparseOptimizerName = Literal["rowwise_adagrad", "adagrad", "adam", "sgd"]
FALLBACK: ShardingType = "table_wise"
"""Fits a table of any number of rows."""


class TableOptimizerConfig(Settings):
    """What a table's optimizer has of its own: `optimizer = {learning_rate = 0.05}`. The rest, and the schedule of all
    tables, is in `[optimizer.sparse]`."""

    name: SparseOptimizerName | None = None
    learning_rate: float | None = Field(default=None, gt=0)
    """Under the warm-up and decay of all tables."""
    eps: float | None = Field(default=None, gt=0)
    """In the same units."""


class ShardedTableConfig(TableConfig):
    """An embedding table, and how it is spread over ranks."""

    sharding: Literal["auto", ShardingType, ColumnShardingType] = "auto"
    """auto: the planner chooses from sharding.allow. Any other: this table is placed so, whatever sharding.allow says;
    by rows also if it has fewer than there are ranks. column_wise: its columns lie on some ranks, in `column_shards`
    parts; table_column_wise: on ranks of one node; grid: each part by rows over a node. May change between starts."""
    column_shards: int = Field(default=1, gt=0)
    """Parts of the columns, for a sharding that splits them. With rowwise_adagrad every part keeps a state of its own:
    another algorithm, the same on any ranks, whose checkpoints only go on with as many parts."""
    kernel: Kernel = "fused"
    """fused: the table lies where it is trained. fused_uvm_caching, for GPUs: in the host's memory, and a fifth of it
    on the GPU as a cache. The same algorithm; may change between starts."""
    optimizer: TableOptimizerConfig = TableOptimizerConfig()
    """What this table has otherwise than `[optimizer.sparse]`."""

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        by_columns = self.sharding in get_args(ColumnShardingType)
        if by_columns and self.column_shards == 1:
            raise ValueError(
                f"table {self.name!r}: sharding = {self.sharding!r} needs column_shards, such as 2: the parts decide "
                "what is trained, so that they may not follow from the number of ranks"
            )
        if not by_columns and self.column_shards > 1:
            raise ValueError(
                f"table {self.name!r}: sharding = {self.sharding!r} splits no columns, but column_shards is "
                f"{self.column_shards}; remove it, or name {', '.join(get_args(ColumnShardingType))}"
            )
        if self.dim % (4 * self.column_shards):
            raise ValueError(
                f"table {self.name!r}: dim = {self.dim} does not make {self.column_shards} column shards of a multiple "
                "of 4 each; use another number of either"
            )
        return self


class Schedule(Settings):
    """Learning rate over samples: a linear rise, then a decay that ends with the run."""

    warmup_samples: Count = Field(default=0, ge=0)
    """Samples over which the rate rises from 0."""
    decay: Decay = "none"
    """How the rate falls between the warm-up and train.samples."""
    decay_to: float = Field(default=0.0, ge=0, le=1)
    """Share of the rate that is left at the end."""

    def factor(self, samples: float, total: int) -> float:
        """Share of the full rate after `samples` of `total` samples."""
        if samples < self.warmup_samples:
            return samples / self.warmup_samples
        if self.decay == "none":
            return 1.0

        decaying = max(total - self.warmup_samples, 1)
        done = min((samples - self.warmup_samples) / decaying, 1.0)
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2

        return self.decay_to + (1 - self.decay_to) * left


class DenseOptimizerConfig(Schedule):
    """Optimizer of everything but the tables."""

    name: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    learning_rate: float = Field(default=2e-3, gt=0)
    decay: Decay = "linear"
    """How the rate falls between the warm-up and train.samples; without, NE at the end is 1 to 2 % worse."""
    weight_decay: float = Field(default=0.0, ge=0)
    """adamw: decoupled; the others: added to the gradient."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the dense gradient; a larger one is scaled down to it."""


class SparseOptimizerConfig(Schedule):
    """Fused optimizer of the tables."""

    name: SparseOptimizerName = "rowwise_adagrad"
    """rowwise_adagrad keeps one number of state per row, adagrad one and adam two per weight, sgd none."""
    learning_rate: float = Field(default=0.2, gt=0)
    eps: float = Field(default=0.05, gt=0)
    """Added to the root of a row's accumulated squared gradients, in units of the gradient of one sample's loss: the
    trained loss is a mean over the batch, so the optimizer gets eps / data.global_batch_size. If it is small, the
    first step on a fresh row has full size whatever its gradient, and rounding drives runs on other ranks apart."""
    weight_decay: float = Field(default=0.0, ge=0)
    """rowwise_adagrad: added to the gradient of the rows that a batch touches; adam: decoupled. fbgemm has none for
    the others, and none on CPUs."""

    def of(self, table: ShardedTableConfig) -> Self:
        """The optimizer of a table, with what it has of its own."""
        return self.model_copy(update=table.optimizer.model_dump(exclude_none=True))

    @property
    def moves_by_zero(self) -> bool:
        """Whether a gradient of zero changes the rows that a batch touches."""
        return self.name == "adam" or self.weight_decay > 0


class OptimizerConfig(Settings):
    """Both optimizers."""

    dense: DenseOptimizerConfig = DenseOptimizerConfig()
    sparse: SparseOptimizerConfig = SparseOptimizerConfig()


class ShardingConfig(Settings):
    """How tables may be spread over ranks."""

    allow: tuple[ShardingType, ...] = Field(default=("table_wise", "row_wise", "table_row_wise"), min_length=1)
    """table_wise: one rank has the table. row_wise: its rows lie on all. table_row_wise: on the ranks of a node. A
    table with too few rows for every rank to get some is table_wise, whatever is allowed."""
    memory: Bytes | None = Field(default=None, gt=0)
    """Most that tables may take of a rank's memory, such as "40GB": weights and the optimizer's state, on its GPU; on a
    CPU also the copy of both that a save makes. Left out, or more than that: 85 % of what there is."""
    replicas: int = Field(default=1, gt=0)
    """Copies of all tables, each spread over ranks / replicas ranks and trained by their samples: TorchRec's 2D
    parallelism, for GPUs. Embeddings travel among fewer ranks; each number of copies is another algorithm."""
    replica_sync_samples: Count | None = Field(default=None, gt=0)
    """Samples, over all ranks, between two averagings of the copies. They are averaged too before anything is
    evaluated, logged or saved. None: after every batch."""
    communication: Communication = "float32"
    """In what embeddings and their gradients travel between ranks. float16, or bfloat16 on GPUs: half the bytes, and
    rounded on the way, so that it is another algorithm on each number of ranks above 1."""

    @field_validator("allow", mode="before")
    @classmethod
    def _explain_refusal(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and {"column_wise", "table_column_wise", "data_parallel"} & set(value):
            raise ValueError(
                f"{list(value)} holds another algorithm: by columns every shard keeps an optimizer state of its own, "
                "data_parallel leaves the fused optimizer, and neither can go on from a checkpoint of the others. Use "
                f"{', '.join(get_args(ShardingType))}; for columns name tables.sharding and tables.column_shards"
            )

        return tuple(value) if isinstance(value, list) else value


def algorithm_remarks(
    tables: tuple[ShardedTableConfig, ...], optimizer: SparseOptimizerConfig, communication: Communication = "float32"
) -> list[str]:
    """What is trained by another algorithm than the name of the optimizer says, a line for each table."""
    remarks = [
        f"table {table.name!r} is trained by another algorithm: each of the {table.column_shards} column shards keeps "
        f"an optimizer state of its own; its checkpoints go on with column_shards = {table.column_shards} only"
        for table in tables
        if table.column_shards > 1 and optimizer.of(table).name == "rowwise_adagrad"
    ]
    halves = [table.name for table in tables if table.dtype == "float16"]
    if halves:
        remarks.append(
            f"float16 weights: {shown_names(halves, 5)}; updates are rounded to the nearest, alike on any ranks, and "
            "those below 1/4096 of a weight may be lost"
        )
    if communication != "float32":
        remarks.append(
            f"embeddings and their gradients travel between ranks as {communication}: rounded, otherwise on other ranks"
        )
    return remarks
