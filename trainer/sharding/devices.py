"""What of a table's training needs a GPU."""

from trainer.errors import ConfigError
from trainer.sharding.settings import ShardedTableConfig, ShardingConfig, SparseOptimizerConfig


def check_device(
    tables: tuple[ShardedTableConfig, ...],
    optimizer: SparseOptimizerConfig,
    sharding: ShardingConfig,
    device_type: str,
) -> None:
    """Raises ConfigError, which names the table, if such devices cannot train one."""
    if device_type == "cuda":
        return

    for table in tables:
        if table.kernel != "fused":
            raise ConfigError(
                f"table {table.name!r}: kernel = {table.kernel!r} needs a GPU, whose memory it spares; use 'fused'"
            )
        if optimizer.of(table).name == "adam":
            where = f"table {table.name!r}: optimizer.name" if table.optimizer.name else "optimizer.sparse.name"
            raise ConfigError(f"{where} = 'adam' needs a GPU: fbgemm has no fused Adam for CPUs; use 'adagrad'")

    if sharding.replicas > 1:
        raise ConfigError(
            f"sharding.replicas = {sharding.replicas} needs GPUs: TorchRec's DMPCollection, which averages copies of "
            "the tables, runs on no CPU; use 1"
        )

    if sharding.communication == "bfloat16":
        raise ConfigError("sharding.communication = 'bfloat16' needs GPUs: gloo does not add it up; use 'float16'")

    if optimizer.weight_decay:
        raise ConfigError(
            f"optimizer.sparse.weight_decay = {optimizer.weight_decay} needs GPUs: fbgemm's kernels for CPUs leave it "
            "out; remove it"
        )
