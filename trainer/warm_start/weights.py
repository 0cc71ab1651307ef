"""Weights and optimizer state are taken from the checkpoint of another run.

tables   row by row, whatever the plans of the two runs: torch.distributed.checkpoint reads what each shard needs
head     on every rank, part by part: what has the same name (`models.named_parts`) and shape
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from models.heads.base import Head
from models.named_parts import named_parts
from models.per_layer_state import State as Weights
from models.ranker import Ranker
from models.tables import table_key
from trainer.build_model import ShardedModel
from trainer.checkpoint.manager import features_of, tensors_of
from trainer.checkpoint.safe_load import SafePlanner
from trainer.checkpoint.true_rows import without_padding
from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.warm_start.choice import TableChoice, choose_tables, input_columns
from trainer.warm_start.source import Source

_TABLES = "features.embeddings.embedding_bags"
WHOLE_TABLE = "all rows"
_LONGEST_LIST = 3
"""Weights of the head that a note names; the others are counted."""


@dataclass(frozen=True)
class Taken:
    """A part of the new model."""

    what: str
    taken: str
    """How much of it is the source's."""
    note: str
    """What is not, and why."""


def take_weights(config: Config, source: Source, sharded: ShardedModel) -> list[Taken]:
    """Puts the source's weights into the model; a line for each table, the head and the optimizers.

    Raises an ExpectedError if ids would meet other rows. Collective: call on all ranks.
    """
    assert config.init is not None
    _check_towers(config, source)
    tables = choose_tables(config, source.config, source.name)
    own = tensors_of(sharded.model, sharded.optimizer)
    states = own["optimizer"]["state"]
    stored = without_padding(own, features_of(sharded.model))
    stored_states = stored["optimizer"]["state"]
    with_dense = config.init.optimizer and config.optimizer.dense.name == source.config.optimizer.dense.name
    _read_tables(source, stored["model"], stored_states, tables)
    sharded.model.load_state_dict(own["model"])

    head = _take_head(config, source, sharded, states if with_dense else {})
    sharded.optimizer.combined.load_state_dict(own["optimizer"])

    note = "another one of the head in the source" if config.init.optimizer and not with_dense else ""
    taken = "state of what is taken" if config.init.optimizer else "–"
    return [*map(_table_line, tables), head, Taken("optimizer", taken, note)]


def _check_towers(config: Config, source: Source) -> None:
    """Raises ConfigError if the source's towers would read another representation than they were trained on."""
    assert config.init is not None
    is_taken = config.init.head and config.model.head == source.config.model.head
    if is_taken and source.config.balance.method == "rotograd":
        raise ConfigError(
            f"init.head: the towers in {source.name} read a trunk that rotograd has turned for each of them, and its "
            "rotations are not taken; set init.head = false"
        )


def _table_line(table: TableChoice) -> Taken:
    taken = "–" if not table.taken else WHOLE_TABLE if table.taken == table.rows else f"{table.taken:,} rows"
    return Taken(f"table {table.name}", taken, table.note)


class _GrowingPlanner(SafePlanner):
    """Takes a tensor with fewer rows than there are here as the first of them."""

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """As in torch.distributed.checkpoint; tensors pass its check of sizes."""
        super().set_up_planner(state_dict, metadata, is_coordinator)
        assert self.metadata is not None
        stored = self.metadata.state_dict_metadata
        for name, tensor in self.state_dict.items():
            entry = stored.get(name)
            if isinstance(entry, TensorStorageMetadata) and entry.size[1:] == tensor.size()[1:]:
                stored[name] = replace(entry, size=tensor.size())


def _read_tables(source: Source, model: dict[str, Any], states: dict[str, Any], tables: list[TableChoice]) -> None:
    """Into the tensors of the model and of the optimizer."""
    name_of = {table.name: f"{_TABLES}.{table_key(table.name)}.weight" for table in tables if table.taken}
    weights = {name: model[name] for name in name_of.values()}
    keys = [f"sparse.{name_of[table.name]}" for table in tables if table.with_state]
    optimizer = {key: states[key] for key in keys}
    if weights:
        wanted = {"model": weights, "optimizer": {"state": optimizer}}
        source.trained.checkpoints.read(source.state, wanted, _GrowingPlanner())


def _take_head(config: Config, source: Source, sharded: ShardedModel, states: dict[str, Any]) -> Taken:
    """Copies what both heads have into the parameters, and into `states` of their optimizer."""
    assert config.init is not None
    kinds = [entry.model.head for entry in (config, source.config)]
    if not config.init.head or kinds[0] != kinds[1]:
        return Taken(
            "head", "–", f"{kinds[1]} in the source, {kinds[0]} here" if config.init.head else "init.head = false"
        )

    head = cast(Ranker, sharded.model.module).head
    theirs, their_states = _read_head(source, states)
    parameters = {name: parameter.detach() for name, parameter in head.named_parameters()}
    own_parts = named_parts(head, config.head_tasks, parameters)
    their_parts = named_parts(_head_of(source.config), source.config.head_tasks, theirs)

    reads_alike = input_columns(config) == input_columns(source.config)
    named_alike = set(config.model.features_by_name) == set(source.config.model.features_by_name)
    width = source.config.columns.width
    fresh = []
    for name, part in own_parts.items():
        other = their_parts.get(name)
        reads_others = not reads_alike and part.dim() > 1 and part.shape[-1] == width
        if name.partition(".")[0] in head.of_columns:
            reads_others = not (reads_alike and named_alike)
        if other is None or other.shape != part.shape or reads_others:
            fresh.append(name)
        else:
            part.copy_(other)

    if not fresh and parameters.keys() == theirs.keys() and list(own_parts) == list(their_parts):
        for name, values in their_states.items():
            for key, value in values.items():
                states[name][key].copy_(value)
    elif states:
        fresh.append("optimizer state")
    return _head_line(len(own_parts), fresh)


def _head_line(num_parts: int, fresh: list[str]) -> Taken:
    weights = [name for name in fresh if name != "optimizer state"]
    taken = "all weights" if not weights else f"{num_parts - len(weights)} of {num_parts} weights"
    shown = ", ".join(fresh[:_LONGEST_LIST])
    more = len(fresh) - _LONGEST_LIST
    note = f"fresh: {shown}{f' and {more} more' if more > 0 else ''}" if fresh else ""
    return Taken("head", taken, note)


def _head_of(config: Config) -> Head:
    """Without memory: for its names and shapes."""
    return config.model.build_on_meta(config.columns, config.head_tasks)


def _read_head(source: Source, states: dict[str, Any]) -> tuple[Weights, dict[str, Weights]]:
    """The source's weights by the names of parameters, and its optimizer's state by that of the state's key."""
    shapes = {name: parameter.shape for name, parameter in _head_of(source.config).named_parameters()}
    weights = {f"head.{name}": torch.empty(shape) for name, shape in shapes.items()}
    optimizer: dict[str, Weights] = {}
    for name, shape in shapes.items():
        own = states.get(f"dense.head.{name}", {})
        tensors = {key: value for key, value in own.items() if isinstance(value, torch.Tensor)}
        optimizer[f"dense.head.{name}"] = {
            key: torch.empty(shape if value.dim() else (), dtype=value.dtype) for key, value in tensors.items()
        }

    wanted = {"model": weights, "optimizer": {"state": optimizer}}
    source.trained.checkpoints.read(source.state, wanted, SafePlanner())
    return {name.removeprefix("head."): tensor for name, tensor in weights.items()}, optimizer
