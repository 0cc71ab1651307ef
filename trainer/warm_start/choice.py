"""Which tables of a new run begin with the rows of another's: a comparison of two configs."""

from dataclasses import dataclass

from data.features import SparseFeature
from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.sharding.settings import ShardedTableConfig

_WAYS = ("cross", "seed", "hashes", "unknown_rows", "edges", "parts", "timezone")
"""Keys of a feature that decide which row an id has, besides `hash` and `vocabulary`."""


@dataclass(frozen=True)
class TableChoice:
    """A table of the new run."""

    name: str
    rows: int
    taken: int
    """Its first rows that are taken; 0: it begins fresh."""
    note: str
    """Why not all are, or not their optimizer's state."""
    with_state: bool = False
    """Whether the optimizer's state of these rows is taken too."""


def choose_tables(config: Config, source: Config, name: str) -> list[TableChoice]:
    """For each table what is taken from the source, which messages call `name`.

    Raises ConfigError where rows would be those of other ids.
    """
    return [_choose(config, source, table, name) for table in range(len(config.tables))]


def _choose(config: Config, source: Config, index: int, name: str) -> TableChoice:
    assert config.init is not None
    table = config.tables_held[index]
    before = next((entry for entry in source.tables_held if entry.name == table.name), None)
    note = None
    if not config.init.takes(table.name):
        note = "not among init.tables"
    elif before is None:
        note = "the source has none of this name"
    elif not _embeds_alike(config, source):
        note = "its rows hold embeddings for other tasks in the source"
    elif before.dim != table.dim:
        note = f"its dim is {before.dim} in the source, {table.dim} here"

    if before is None or note is not None:
        return _fresh(config, table.name, table.rows, note or "")

    _check_ways(config, source, table.name, name)
    _check_column_shards(config, before, table, name)
    with_state, notes = _state_of(config, source, table, before)
    if table.dtype != before.dtype:
        notes.append(f"{before.dtype} in the source, {table.dtype} here")
    if table.rows == before.rows:
        return TableChoice(table.name, table.rows, table.rows, "; ".join(notes), with_state)

    has = f"init.tables: table {table.name!r} has {table.rows:,} rows here, {before.rows:,} in {name}"
    way_out = "give it as many rows, or leave it out of init.tables"
    if table.rows < before.rows:
        raise ConfigError(f"{has}; {way_out}")
    if any(feature.is_hashed for feature in _readers(config, table.name)):
        raise ConfigError(f"{has}, and its ids are hashed: each would meet another row; {way_out}")

    notes.insert(0, f"{table.rows - before.rows:,} new rows begin fresh")
    return TableChoice(table.name, table.rows, before.rows, "; ".join(notes), with_state)


def _embeds_alike(config: Config, source: Config) -> bool:
    """Whether the embeddings of an id are for the same tasks, in order."""
    if config.embeddings_per_id == source.embeddings_per_id == 1:
        return True
    return config.model.head == source.model.head and config.head_tasks == source.head_tasks


def _state_of(
    config: Config, source: Config, table: ShardedTableConfig, before: ShardedTableConfig
) -> tuple[bool, list[str]]:
    """Whether the optimizer's state is taken, and why not, if that was asked for."""
    assert config.init is not None
    if not config.init.optimizer:
        return False, []

    old = source.optimizer.sparse.of(before).name
    new = config.optimizer.sparse.of(table).name
    return old == new, [] if old == new else [f"optimizer state: {old} in the source, {new} here"]


def _fresh(config: Config, name: str, rows: int, note: str) -> TableChoice:
    assert config.init is not None
    if config.init.freezes(name):
        raise ConfigError(f"init.freeze: table {name!r} is not taken ({note}), so it would never learn anything")
    return TableChoice(name, rows, 0, note)


def _check_ways(config: Config, source: Config, table: str, name: str) -> None:
    """Raises ConfigError if a feature gives an id another row of the table than it had in the source."""
    before = {feature.name: feature for feature in _readers(source, table)}
    for feature in _readers(config, table):
        old = before.get(feature.name)
        if old is None:
            continue
        changes = [(key, getattr(old, key), getattr(feature, key)) for key in _WAYS]
        changes += [("hash", old.hash, feature.hash), ("vocabulary", bool(old.vocabulary), bool(feature.vocabulary))]
        for key, there, here in changes:
            if there != here:
                raise ConfigError(
                    f"init.tables: feature {feature.name!r} of table {table!r} has {key} = {here!r} here, {there!r} in "
                    f"{name}: ids would meet other rows; set it alike, or leave the table out of init.tables"
                )


def _check_column_shards(config: Config, before: ShardedTableConfig, table: ShardedTableConfig, name: str) -> None:
    """Raises ConfigError if the state of rowwise_adagrad lies otherwise in the source: one number a row and shard."""
    assert config.init is not None
    if not config.init.optimizer or config.optimizer.sparse.of(table).name != "rowwise_adagrad":
        return

    what = f"init.tables: table {table.name!r} has"
    way_out = "set init.optimizer = false, or leave the table out of init.tables"
    if before.column_shards != table.column_shards:
        shards = f"column_shards = {table.column_shards} here, {before.column_shards} in {name}"
        raise ConfigError(f"{what} {shards}, and each of them a state of its own; {way_out}")
    if table.column_shards > 1 and table.rows != before.rows:
        rows = f"{table.rows:,} rows here, {before.rows:,} in {name}"
        raise ConfigError(f"{what} {rows}, and its column shards have states that do not grow; {way_out}")


def _readers(config: Config, table: str) -> list[SparseFeature]:
    return [feature for feature in config.features.sparse if feature.table == table]


def input_columns(config: Config) -> list[str]:
    """What the head reads, in order: each feature with its width, and tasks that have embeddings of their own."""
    dims = {table.name: table.dim for table in config.tables_held}
    sparse = [f"{feature.name}:{dims[feature.table]}" for feature in config.features.sparse]
    tasks = config.head_tasks if config.embeddings_per_id > 1 else []
    return sparse + tasks + [f"{' - '.join(feature.columns)}:{feature.width}" for feature in config.features.dense]
