"""Rows that a table holds beyond its own, so that every rank gets some where its rows are split by name.

A split by rows gives each of R ranks ceil(rows / R) rows, so that none may be left for the last ones; fbgemm on CPUs
trains wrongly then (see `docs/architecture.md`). Rows that no id reads fill that up. They have no
gradient, so no optimizer touches them; checkpoints do not hold them (`trainer.checkpoint.true_rows`).

    1 row on 2 ranks          6 rows on 4 ranks
    rank 0   0                rank 0   0 1
    rank 1   –                rank 1   2 3
                              rank 2   4 5
                              rank 3   –
"""

from trainer.sharding.settings import ShardedTableConfig


def rows_held(tables: tuple[ShardedTableConfig, ...], size: int, local_size: int) -> dict[str, int]:
    """By table the rows that it holds on so many ranks, `local_size` of them on a node; more than it has only where a
    shard would be empty without.
    """
    ranks_of_split = {"row_wise": size, "table_row_wise": local_size, "grid": local_size}
    return {table.name: padded_rows(table.rows, ranks_of_split.get(table.sharding, 1)) for table in tables}


def padded_rows(rows: int, ranks: int) -> int:
    """The least number from `rows` on of which a split by ceil leaves no rank without any."""
    rows_per_rank = -(-rows // ranks)
    first_of_last_rank = rows_per_rank * (ranks - 1)
    return max(rows, first_of_last_rank + 1)
