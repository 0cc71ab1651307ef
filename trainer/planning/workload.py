"""What a training asks of its ranks, whatever these are: tables, ids, head, bytes of a row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch.autograd.graph import saved_tensors_hooks

from data.errors import ExpectedError
from data.features import Features, SparseFeature
from data.manifest import Manifest
from models.columns import Columns
from models.cost import HeadCost, head_cost
from models.heads.base import HeadConfig
from trainer.config.run_config import Config
from trainer.datasets import check_columns, open_manifest
from trainer.errors import ConfigError
from trainer.planning.devices import Precision

_COUNTED_ROWS = 64
"""Rows of the forward pass without memory in which activations are counted."""
ID_BYTES, NUMBER_BYTES = 8, 4


@dataclass(frozen=True)
class Workload:
    """A step's work, per row of the batch."""

    global_batch_size: int
    ids_per_row: dict[str, float]
    """Ids that each table is asked for."""
    features_of: dict[str, int]
    """Features that each table serves."""
    inputs: int
    """Width of the head's input."""
    dense_width: int
    labels: int
    head: HeadCost
    activation_bytes: int
    """What the head keeps for its backward pass."""
    precision: Precision
    dense_state: int
    """Numbers that the dense optimizer keeps of each parameter."""
    bytes_per_row: float
    """Of the data, as its files' pages unpack."""
    reading_threads: int
    assumptions: tuple[str, ...] = ()
    """What is not known, and what was taken instead."""

    @property
    def values_per_row(self) -> float:
        """Ids, numbers and labels that are decoded."""
        return sum(self.ids_per_row.values()) + self.dense_width + self.labels


def workload_of(config: Config, ids_per_row: list[str]) -> Workload:
    """From a config, its data if that can be opened, and what `--ids-per-row` says instead."""
    features = config.features
    given = _given_ids(ids_per_row, features)
    assumptions: list[str] = []
    manifest = _manifest(config, assumptions)
    ids = {feature.name: _ids_of(feature, given, manifest) for feature in features.sparse}
    if manifest is None and not given:
        assumptions.append("one id a row for every feature; --ids-per-row says otherwise")

    columns = config.columns
    decoded = sum(ids.values()) * ID_BYTES + (features.dense_width + len(config.tasks)) * NUMBER_BYTES
    names = [table.name for table in config.tables_held]
    served = {name: [feature for feature in features.sparse if feature.table == name] for name in names}

    return Workload(
        global_batch_size=config.data.global_batch_size,
        ids_per_row={name: sum(ids[feature.name] for feature in group) for name, group in served.items()},
        features_of={name: len(group) for name, group in served.items()},
        inputs=columns.width,
        dense_width=features.dense_width,
        labels=len(config.tasks),
        head=head_cost(config.model, columns, config.head_tasks),
        activation_bytes=activation_bytes(config.model, columns, config.head_tasks),
        precision=config.train.precision,
        dense_state={"sgd": 0, "adagrad": 1}.get(config.optimizer.dense.name, 2),
        bytes_per_row=decoded if manifest is None else float(manifest.bytes.sum()) / manifest.num_rows,
        reading_threads=config.data.threads,
        assumptions=tuple(assumptions),
    )


def activation_bytes(head: HeadConfig, columns: Columns | int, tasks: Sequence[str]) -> int:
    """Bytes a row that autograd keeps for the head's backward pass, counted in a forward pass without memory."""
    inputs = columns if isinstance(columns, int) else columns.width
    module = head.build_on_meta(columns, tasks)
    weights = {id(parameter) for parameter in module.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in weights:
            kept[id(base)] = base
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        module(torch.empty(_COUNTED_ROWS, inputs, device="meta", requires_grad=True))

    per_batch = [tensor for tensor in kept.values() if _COUNTED_ROWS in tensor.shape]
    return math.ceil(sum(tensor.numel() * tensor.element_size() for tensor in per_batch) / _COUNTED_ROWS)


def _given_ids(texts: list[str], features: Features) -> dict[str, float]:
    """By feature; "" for all others. Raises ExpectedError if a text is not N or FEATURE=N."""
    names = [feature.name for feature in features.sparse]
    given: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if name and name not in names:
            raise ExpectedError(f"--ids-per-row {text!r}: no sparse feature {name!r}; there are {', '.join(names)}")
        try:
            given[name] = float(number)
        except ValueError:
            given[name] = -1
        if not 0 < given[name] <= 1e6:
            raise ExpectedError(f"--ids-per-row {text!r}: write N or FEATURE=N, with N above 0 and up to 1e6")
    return given


def _manifest(config: Config, assumptions: list[str]) -> Manifest | None:
    """Of the training data; None, with a note, if it cannot be opened, since a plan needs none."""
    try:
        manifest = open_manifest(config.data.train_source)
        check_columns(manifest, config)
    except ConfigError:
        raise
    except (ExpectedError, OSError):
        assumptions.append(
            f"the data at {config.data.train_source} cannot be opened: 8 bytes an id and 4 a number, as they unpack"
        )
        return None
    return manifest


def _ids_of(feature: SparseFeature, given: dict[str, float], manifest: Manifest | None) -> float:
    """Ids a row, on average."""
    if feature.name in given:
        return given[feature.name]
    if "" in given:
        return given[""]

    rows = max(len(feature.parts), feature.hashes)
    if manifest is None or not feature.column:
        return rows
    most = feature.first or feature.last
    return rows * _mean_length(manifest, feature.column, most)


def _mean_length(manifest: Manifest, column: str, most: int | None) -> float:
    """Of the lists in the first row group; 1 where there is one value a row, or the column is part of a struct."""
    if column not in manifest.schema.names or not pa.types.is_list(manifest.schema.field(column).type):
        return 1.0

    path = f"{manifest.root}/{manifest.files[int(manifest.file[0])]}".rstrip("/")
    with manifest.filesystem.open_input_file(path) as file:
        lists = pq.ParquetFile(file).read_row_group(int(manifest.group[0]), columns=[column]).column(column)

    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    if most is not None:
        lengths = pc.min_element_wise(lengths, most)
    return float(pc.mean(lengths).as_py() or 0.0)
