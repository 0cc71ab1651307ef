"""The datasets of a run: opened, checked against the config, and the way in which they are read."""

from dataclasses import replace

import pyarrow as pa

from data.columns.decode import Columns
from data.columns.kinds import alike, is_groupable, kind_of, stored_type
from data.columns.numbers import Label
from data.columns.types import columns_there
from data.columns.vocabulary import Vocabulary
from data.discovery.dataset import read_manifest
from data.discovery.source import Source, source_of
from data.discovery.windows import check_windows
from data.manifest import Manifest, OnBadFile, read_schema
from data.order import OrderName
from data.reading import Reading
from models.tasks import TaskConfig
from trainer.config.run_config import Config
from trainer.config.samples import passes_of
from trainer.console import LateProgress, tell
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.shared_storage import own_copy


def build_columns(config: Config, vocabularies: dict[str, Vocabulary] | None = None) -> Columns:
    """What the columns of the datasets become; to decode rows it takes the vocabularies, by table."""
    return Columns(
        features=config.features,
        table_rows={table.name: table.rows for table in config.tables},
        labels=tuple(_label_of(task) for task in config.tasks),
        weight=config.data.weight,
        vocabularies=vocabularies or {},
    )


def _label_of(task: TaskConfig) -> Label:
    return Label(task.label, task.binary, task.missing, task.threshold, task.transform, task.weight_column, task.space)


def open_dataset(
    uri: str | Source, config: Config, world: World, on_bad_file: OnBadFile = "fail", *, trains: bool = False
) -> Manifest:
    """Manifest of a dataset that has every column the config names, in a usable type. Collective: call on all ranks.

    `uri` may differ between ranks, as long as the same files are there. `trains`: a column without any value is an
    error, since nothing could be learned from it.
    """

    source = source_of(uri)

    def read() -> Manifest:
        manifest = open_manifest(source, on_bad_file)
        check_columns(manifest, config, trains=trains)
        return manifest

    manifest = world.on_rank_zero(read)
    for note in (manifest.unread_note, manifest.waiting_note):
        if world.is_rank_zero and note:
            tell("note", note)

    return own_copy(manifest, source, world, on_bad_file)


def open_manifest(source: Source, on_bad_file: OnBadFile = "fail") -> Manifest:
    """Manifest of a dataset; tells how far it is where its footers take long to read."""
    with LateProgress(f"reading footers of {source}") as progress:
        return read_manifest(source, on_bad_file=on_bad_file, progress=progress)


def check_columns(manifest: Manifest, config: Config, *, trains: bool = True) -> None:
    """Raises ConfigError if a column is missing, of the wrong type, or an output used as a feature.

    `trains`: also if it has no value at all, unless files may lack it.
    """
    columns = build_columns(config)
    described = read_schema(manifest)

    for name in columns.names:
        may_lack = name in columns.may_lack
        if not may_lack and not manifest.has(name):
            there = columns_there(manifest, name)
            raise ConfigError(f"dataset {manifest.uri}: no column {name!r}, which the config names; {there}")
        stored = stored_type(manifest, name, as_number=True, may_lack=may_lack)
        may_be_null = may_lack or not trains
        problem = None if may_be_null and pa.types.is_null(stored) else columns.problem(name, stored)
        if problem:
            raise ConfigError(f"dataset {manifest.uri}: column {name!r} {problem}")

    for name in config.features.columns:
        column = described.get(name)
        if column is not None and column.role in ("label", "oracle"):
            raise ConfigError(
                f"features: column {name!r} is the {column.role} {column.description!r} in schema.json; "
                "an output cannot be a feature"
            )


def lacking_columns(reading: Reading) -> list[str]:
    """A line for each column that some files lack, as they may: in how many rows it is null for that."""
    manifest = reading.manifest
    lacking = {name: manifest.num_rows_without(name) for name in reading.columns.names}
    return [
        f"column {name!r} is in no file of {rows:,} of the {manifest.num_rows:,} training rows: it is null in them"
        for name, rows in lacking.items()
        if rows
    ]


def check_same_kinds(trained_on: Manifest, manifest: Manifest, config: Config) -> None:
    """Raises ConfigError if a dataset holds values of another kind in a column than the one that the model is trained
    on.

    The same number as text is another id, and meets another row of its table.
    """
    columns = build_columns(config)
    for name in columns.names:
        may_lack = name in columns.may_lack
        before, now = (stored_type(entry, name, as_number=True, may_lack=may_lack) for entry in (trained_on, manifest))
        if not alike(before, now, as_number=True):
            here = f"{kind_of(now)} ({now}) in {manifest.uri}"
            there = f"{kind_of(before)} ({before})"
            raise ConfigError(
                f"column {name!r} is {here}, but {there} in {trained_on.uri}, which the model is trained on: the same "
                "value would be another one; write both alike"
            )


def check_lanes(config: Config, world: World) -> None:
    """Raises ConfigError if the ranks cannot share the lanes equally."""
    if config.data.lanes % world.size:
        raise ConfigError(
            f"data.lanes = {config.data.lanes} is not divisible by the {world.size} ranks; "
            "every rank serves the same number of lanes"
        )


def train_reading(config: Config, manifest: Manifest) -> Reading:
    """How the training data is read.

    Raises ExpectedError if it is too small, or has no order in time that is asked for.
    """
    if config.data.order == "chronological":
        check_windows(manifest.uri, manifest.window_names)

    reading = _reading(config, manifest, config.data.order, config.data.global_batch_size)
    reading = replace(reading, on_bad_file=config.data.on_bad_file, on_bad_value=config.data.on_bad_value)
    if reading.batches_per_epoch == 0:
        raise ConfigError(
            f"data.global_batch_size = {config.data.global_batch_size} exceeds the {manifest.num_rows} rows of "
            f"{manifest.uri}; not one batch fits"
        )
    samples = config.train.samples
    if isinstance(samples, int) and samples > manifest.num_rows and not config.data.repeat:
        raise ConfigError(
            f"train.samples = {samples} exceeds the {manifest.num_rows} rows of {manifest.uri}; "
            "train fewer, or set data.repeat = true for several passes"
        )

    return reading


def as_configured(reading: Reading, config: Config, vocabularies: dict[str, Vocabulary]) -> Reading:
    """The same reading with what has been measured since: columns depend on means, scales and vocabularies."""
    return replace(reading, columns=build_columns(config, vocabularies), block_rows=config.data.block_rows)


def test_reading(config: Config, manifest: Manifest, lanes: int, vocabularies: dict[str, Vocabulary]) -> Reading:
    """How the test data is read: every row once, as stored; raises ConfigError if a column of `evaluate` is missing.

    Metrics do not depend on which rows share a batch, so that one lane a rank will do, with the least memory.
    """
    for name in config.evaluate.by:
        _check_groupable("evaluate.by", name, manifest, as_number=True)
    for key, column in (("unit", config.evaluate.unit), ("group_by", config.evaluate.group_by)):
        if column is not None:
            _check_groupable(f"evaluate.{key}", column, manifest, as_number=False)
    size = config.data.evaluation_batch_size or config.data.global_batch_size
    reading = _reading(config, manifest, "stored", size, keep_last=True)
    return replace(reading, lanes=lanes, columns=build_columns(config, vocabularies))


def _check_groupable(key: str, name: str, manifest: Manifest, *, as_number: bool) -> None:
    """Raises ConfigError if there is no such column, or rows cannot be grouped by it."""
    if not manifest.has(name):
        raise ConfigError(f"{key}: no column {name!r} in {manifest.uri}; {columns_there(manifest, name)}")

    stored = stored_type(manifest, name, as_number=as_number)
    if not is_groupable(stored):
        raise ConfigError(f"{key}: column {name!r} is {stored}; choose one of numbers, booleans or text")


def end_of_training(config: Config, reading: Reading) -> int:
    """Samples at the last batch: train.samples rounded up to a batch; one pass at most where it may not repeat."""
    batch = reading.global_batch_size
    samples = config.train.samples
    if not isinstance(samples, int):
        return batch * reading.batches_per_epoch * (passes_of(samples) or 1)
    batches = -(-samples // batch)
    return batch * (batches if config.data.repeat else min(batches, reading.batches_per_epoch))


def _reading(config: Config, manifest: Manifest, order: OrderName, batch_size: int, keep_last: bool = False) -> Reading:
    return Reading(
        manifest,
        build_columns(config),
        batch_size,
        config.data.lanes,
        order,
        config.run.seed,
        keep_last,
        block_rows=config.data.block_rows,
    )
