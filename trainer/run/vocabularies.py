"""The vocabularies of a run: found at its first start, kept in RUN/vocabularies from then on.

a file ───────────────────────────────────────► read on rank 0 ─┐
"auto" ─► stored by `adatt stats`? else each rank counts a share ┼─► every rank
a later start, an evaluation ─► RUN/vocabularies/<table>.parquet ┘
"""

from data.columns.kinds import alike, stored_type
from data.columns.types import element_type
from data.columns.vocabulary import Vocabulary
from data.errors import DataError
from data.features import SparseFeature
from data.manifest import Manifest
from data.profile.counts import MOST
from data.profile.dataset import DatasetProfile, Progress, Wanted, profile_dataset
from data.profile.stored import CountedColumn, counted, stored_counts
from data.profile.vocabularies import count_ids, frequent_ids, read_vocabulary
from data.reading import Reading
from trainer.config.measured import with_sparse
from trainer.config.run_config import Config
from trainer.console import count_progress, tell
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.directory import RunDirectory

Vocabularies = dict[str, Vocabulary]
"""By table."""


def kept_vocabularies(run: RunDirectory) -> Vocabularies:
    """Those of a run that has begun; raises DataError if a file is missing or another one. Call on rank 0."""
    found: Vocabularies = {}
    for table, features in _by_table(run.read_config()).items():
        path = run.vocabulary_file(table)
        vocabulary = read_vocabulary(str(path), features[0].unknown_rows)
        if vocabulary.digest != features[0].vocabulary_digest:
            raise DataError(f"{path}: not the vocabulary that the run was trained with; restore it from a copy")
        found[table] = vocabulary
    return found


def find_vocabularies(config: Config, train: Reading, world: World, progress: Progress) -> Vocabularies:
    """Those of a run that begins; each that was counted is told of. Collective: call on all ranks.

    Raises an ExpectedError on all ranks if one cannot be read, or its table has too few rows.
    """
    by_table = _by_table(config)
    counts = _counts(_columns_to_count(by_table), config, train, world, progress)

    skip_bad = train.on_bad_value == "skip"

    def find() -> Vocabularies:
        vocabularies: Vocabularies = {}
        for table, features in by_table.items():
            rows = train.columns.table_rows[table]
            if features[0].vocabulary == "auto":
                vocabularies[table] = _frequent(table, features, rows, counts, skip_bad=skip_bad)
            else:
                vocabularies[table] = read_vocabulary(features[0].vocabulary, features[0].unknown_rows)
            _check(table, features, rows, vocabularies[table], train.manifest)
        return vocabularies

    return world.on_rank_zero(find)


def with_digests(config: Config, vocabularies: Vocabularies) -> Config:
    """The config that says which vocabularies its run has."""
    digests = {
        feature.name: {"vocabulary_digest": vocabularies[table].digest}
        for table, features in _by_table(config).items()
        for feature in features
    }
    return with_sparse(config, digests)


def _by_table(config: Config) -> dict[str, list[SparseFeature]]:
    """The features with a vocabulary; those of one table have the same."""
    found: dict[str, list[SparseFeature]] = {}
    for feature in config.features.sparse:
        if feature.vocabulary:
            found.setdefault(feature.table, []).append(feature)
    return found


def _columns_to_count(by_table: dict[str, list[SparseFeature]]) -> list[str]:
    wanted = [feature for features in by_table.values() for feature in features if feature.vocabulary == "auto"]
    return sorted({feature.column for feature in wanted})


def _counts(
    columns: list[str], config: Config, train: Reading, world: World, progress: Progress
) -> dict[str, CountedColumn]:
    """How often each value of these columns is in the training data: as `adatt stats` has stored it, or counted now by
    all ranks. Known on rank 0 only.
    """
    stored = stored_counts(train.manifest, columns) if world.is_rank_zero else {}
    missing = world.on_rank_zero(lambda: [name for name in columns if name not in stored])
    if not missing:
        return stored

    wanted = Wanted(all_values=True, on_bad_file=config.data.on_bad_file)
    share = (world.rank, world.size)

    def count() -> DatasetProfile:
        with count_progress("counting ids", train.manifest.num_rows, world.is_rank_zero) as bar:

            def tell_progress(rows: int) -> None:
                progress(rows)
                bar(rows * world.size)

            return profile_dataset(
                train.manifest, missing, share=share, threads=config.data.threads, wanted=wanted, progress=tell_progress
            )

    profile = world.joined(world.raise_on_all_ranks(count), DatasetProfile.join)
    found = {name: counted(column) for name, column in profile.columns.items()}
    return stored | {name: column for name, column in found.items() if column is not None}


def _frequent(
    table: str, features: list[SparseFeature], rows: int, counts: dict[str, CountedColumn], *, skip_bad: bool
) -> Vocabulary:
    """The most frequent ids of a table's columns; tells how many of all they are. `skip_bad`: no error for values that
    are no ids.
    """
    first = features[0]
    columns = {feature.column: counts[feature.column] for feature in features}
    try:
        tables = {name: column.table for name, column in columns.items()}
        added = count_ids(tables, skip_bad=skip_bad)
    except DataError as error:
        raise DataError(f"vocabulary of table {table!r}: {error}") from error

    values = frequent_ids(added, rows - first.unknown_rows, first.min_count)
    if len(values) == 0:
        raise DataError(
            f"vocabulary of table {table!r}: none of its {added.num_rows:,} ids occurs {first.min_count} times; "
            "lower min_count"
        )
    counts_N = added["count"].to_numpy()
    share = counts_N[: len(values)].sum() / counts_N.sum()
    is_exact = all(column.is_exact for column in columns.values())
    ids = f"{added.num_rows:,} ids" if is_exact else f"more than {MOST:,} ids, counted roughly"
    tell("note", f"table {table!r} has a vocabulary of {len(values):,} of {ids}: {share:.2%} of the lookups")
    return Vocabulary(values, first.unknown_rows)


def _check(table: str, features: list[SparseFeature], rows: int, vocabulary: Vocabulary, train: Manifest) -> None:
    """Raises an ExpectedError if a vocabulary does not fit its table, the data or the config."""
    if vocabulary.rows_needed > rows:
        raise ConfigError(
            f"tables: {table!r} has {rows:,} rows, but its vocabulary needs {vocabulary.rows_needed:,}: "
            f"{len(vocabulary):,} ids and unknown_rows = {vocabulary.unknown_rows:,}"
        )
    for feature in features:
        stored = stored_type(train, feature.column, as_number=True, may_lack=feature.missing == "null")
        kind = vocabulary.values.type
        if not alike(element_type(stored), kind, as_number=True):
            raise DataError(
                f"feature {feature.name!r}: column {feature.column!r} is {stored}, but the vocabulary of table "
                f"{table!r} is of {kind}: no id would be in it; write both alike"
            )
        if feature.vocabulary_digest not in (None, vocabulary.digest):
            found = "vocabulary_digest is that of another vocabulary than the one found"
            raise DataError(f"feature {feature.name!r}: {found}; remove the key to use this one")
