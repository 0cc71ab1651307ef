"""The run that another begins with, and what the new one's config and vocabularies take over from it.

A head reads inputs and predicts labels in the units in which it was trained. So the numbers that the source has
measured (means, scales, boundaries, label means) come with its weights, and its ids keep their rows.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from data.columns.vocabulary import Vocabulary
from data.features import DenseFeature
from data.manifest import Manifest
from data.storage.manifest_file import load_manifest
from models.tasks import TaskConfig
from trainer.checkpoint.state import State
from trainer.checkpoint.trained_run import TrainedRun, open_trained_run
from trainer.config.measured import complete_from, with_sparse
from trainer.config.run_config import Config
from trainer.config.warm_start import InitConfig
from trainer.datasets import check_same_kinds
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.directory import RunDirectory
from trainer.run.vocabularies import Vocabularies


@dataclass(frozen=True)
class Source:
    """A run, and the checkpoint of it that is meant."""

    trained: TrainedRun
    state: State

    @property
    def config(self) -> Config:
        """Its resolved config."""
        return self.trained.config

    @property
    def name(self) -> str:
        """Its folder, for messages."""
        return str(self.trained.run.path)


def open_source(init: InitConfig, world: World) -> Source:
    """The run that `init` names; raises an ExpectedError if there is none. Collective: call on all ranks."""
    world.on_rank_zero(lambda: _check_run(init.source))
    trained = open_trained_run(init.source, world)
    return Source(trained, trained.find_checkpoint(init.checkpoint, "init.checkpoint ="))


def _check_run(path: str) -> None:
    if not RunDirectory(path).config_file.exists():
        raise ConfigError(f"init.from = {path!r}: no run is there; name a folder that `adatt train` wrote")


def inherited(config: Config, source: Source) -> Config:
    """The config with what the source has measured, for keys that it leaves open, and with the checkpoint's name."""
    assert config.init is not None
    dense = tuple(feature for feature in source.config.features.dense if _is_read_alike(feature, config))
    tasks = tuple(task for task in source.config.tasks if _is_learned_alike(task, config))
    features = source.config.features.model_copy(update={"dense": dense})
    known = source.config.model_copy(update={"features": features, "tasks": tasks})

    completed = complete_from(config, known)
    # The data is another: how it is read in blocks, and its vocabularies, are still to be found.
    digests = {feature.name: {"vocabulary_digest": None} for feature in completed.features.sparse}
    init = config.init.model_copy(update={"checkpoint": str(source.state.samples)})
    return with_sparse(completed, digests).model_copy(update={"data": config.data, "init": init})


def _is_read_alike(feature: DenseFeature, config: Config) -> bool:
    keys = ("column", "size", "since", "fill", "clip")
    return any(all(getattr(other, key) == getattr(feature, key) for key in keys) for other in config.features.dense)


def _is_learned_alike(task: TaskConfig, config: Config) -> bool:
    keys = ("name", "kind", "threshold", "transform")
    return any(all(getattr(other, key) == getattr(task, key) for key in keys) for other in config.tasks)


def check_kinds(config: Config, manifest: Manifest, source: Source) -> None:
    """Raises ConfigError if ids of a feature that both have are numbers here and text there. Call on rank 0."""
    names = {feature.name for feature in source.config.features.sparse}
    sparse = tuple(feature for feature in config.features.sparse if feature.name in names)
    features = config.features.model_copy(update={"sparse": sparse, "dense": ()})
    shared = config.model_copy(update={"features": features, "tasks": ()})
    check_same_kinds(load_manifest(source.trained.run.manifests["train"]), manifest, shared)


def grown_vocabularies(found: Vocabularies, config: Config, source: Source) -> Vocabularies:
    """The vocabularies of the new data, behind those of the source where its table is taken.

    Raises ConfigError if a file of ids does not begin with the source's.
    """
    assert config.init is not None
    known = source.trained.vocabularies
    rows = {table.name: table.rows for table in config.tables}
    is_file = {feature.table: feature.vocabulary != "auto" for feature in config.features.sparse}
    grown = dict(found)
    for table in found.keys() & known.keys():
        if config.init.takes(table):
            _check_prefix(table, found[table], known[table], is_file=is_file[table], name=source.name)
            grown[table] = _appended(known[table], found[table], rows[table])
    return grown


def _check_prefix(table: str, found: Vocabulary, known: Vocabulary, *, is_file: bool, name: str) -> None:
    if found.values.type != known.values.type:
        raise ConfigError(
            f"init.tables: the vocabulary of table {table!r} is {found.values.type}, {known.values.type} in {name}; "
            "write ids alike, or leave the table out of init.tables"
        )
    if is_file and found.values.slice(0, len(known)) != known.values:
        raise ConfigError(
            f"init.tables: the vocabulary of table {table!r} does not begin with that of {name}, so that its ids would "
            "meet other rows; append new ids to that one, or leave the table out of init.tables"
        )


def _appended(known: Vocabulary, found: Vocabulary, rows: int) -> Vocabulary:
    """The known ids, then the new ones, as far as the table has rows for them."""
    new = found.values.filter(pc.invert(pc.is_in(found.values, value_set=known.values)))
    room = max(rows - known.rows_needed, 0)
    return Vocabulary(pa.concat_arrays([known.values, new.slice(0, room)]), known.unknown_rows)
