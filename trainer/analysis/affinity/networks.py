"""The networks of single tasks, and what they make of the same rows of a test set.

Shapes: B rows, H units of a level.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.discovery.source import Source
from data.manifest import Manifest
from data.reading import Reading
from data.storage.manifest_file import load_manifest
from models.heads.shared_bottom import TrunkHead
from trainer.batches import open_stream
from trainer.build_model import ShardedModel
from trainer.checkpoint.state import State
from trainer.checkpoint.trained_run import TrainedRun, open_trained_run
from trainer.config.run_config import Config, EvaluateConfig
from trainer.datasets import test_reading
from trainer.distributed.world import World
from trainer.errors import ConfigError

STRETCHES = 50
"""The rows are taken from so many places of the test set, evenly spread over it."""
Activations = NDArray[np.float32]


@dataclass(frozen=True)
class Networks:
    """One network for each of the tasks, on the same rows."""

    config: Config
    """Of the first run; what matters of it is alike in all."""
    tasks: list[str]
    num_rows: int
    activations: list[list[Activations]]
    """activations_BH behind each level, for each task."""


@dataclass(frozen=True)
class _Opened:
    """A run whose input has been checked, before its model is built."""

    trained: TrainedRun
    config: Config
    manifest: Manifest
    state: State

    @property
    def path(self) -> str:
        return str(self.trained.run.path)


def read_networks(runs: Iterable[str], checkpoint: str, data: Source | None, num_rows: int, world: World) -> Networks:
    """The networks of `runs` on `num_rows` rows of their test set, or of `data`; one process alone.

    Raises an ExpectedError if a run is not of single tasks, or the runs cannot be compared.
    """
    opened = [_open(path, checkpoint, data, world) for path in runs]
    first = opened[0]
    for other in opened[1:]:
        _check_alike(first, other)
    tasks = _tasks(opened)

    activations: list[list[Activations]] = []
    for run in opened:
        activations += _activations(run, num_rows, world)
    return Networks(first.config, tasks, len(activations[0][0]), activations)


def _open(path: str, checkpoint: str, data: Source | None, world: World) -> _Opened:
    trained = open_trained_run(path, world)
    config = trained.config.model_copy(update={"evaluate": EvaluateConfig()})
    num_tasks = len(config.head_tasks)
    if config.model.head != "single_task" and not (config.model.head == "shared_bottom" and num_tasks == 1):
        raise ConfigError(
            f"{path}: model.head = {config.model.head!r} with {num_tasks} {'task' if num_tasks == 1 else 'tasks'} is "
            "no network of a single task; train each task in a run of its own with head = 'shared_bottom', or all with "
            "'single_task'"
        )

    source = config.data.test_source if data is None else data
    if source is None:
        raise ConfigError(f"{path}: its config names no data.test; name a dataset with --data")
    return _Opened(trained, config, trained.open_dataset(source, config), trained.find_checkpoint(checkpoint))


def _check_alike(first: _Opened, other: _Opened) -> None:
    """Raises ConfigError if the networks of two runs differ in more than their task."""
    for what, way_out in (
        ("training data", "train all runs on the same data"),
        ("test rows", "name one dataset for all with --data"),
        ("features", "train all runs with the same features and tables"),
        ("model.levels", "train all runs with the same levels"),
        ("model.tower", "train all runs with the same tower"),
        ("model.activation", "train all runs with the same activation"),
    ):
        here, there = _traits(other)[what], _traits(first)[what]
        if here != there:
            raise ConfigError(f"{other.path} has {what} {here}, {first.path} has {there}; {way_out}")


def _traits(run: _Opened) -> dict[str, Any]:
    config = run.config
    columns = config.columns
    return {
        "training data": load_manifest(run.trained.run.manifests["train"]).fingerprint[:12],
        "test rows": run.manifest.fingerprint[:12],
        "features": dict(zip(columns.names, columns.widths, strict=True)),
        "model.levels": [list(level) for level in config.model.levels],
        "model.tower": list(config.model.tower),
        "model.activation": config.model.activation,
    }


def _tasks(opened: list[_Opened]) -> list[str]:
    """Of all runs; raises ConfigError if one comes twice, or there is but one."""
    run_of: dict[str, str] = {}
    for run in opened:
        for task in run.config.head_tasks:
            if task in run_of:
                raise ConfigError(f"task {task!r} is in {run_of[task]} and in {run.path}; name one run for each task")
            run_of[task] = run.path
    if len(run_of) < 2:
        raise ConfigError(f"{opened[0].path} has one task, {next(iter(run_of))!r}; name the runs of the others too")
    return list(run_of)


def _activations(run: _Opened, num_rows: int, world: World) -> list[list[Activations]]:
    """activations_BH of each task and level."""
    sharded = run.trained.load(run.state)
    reading = test_reading(run.config, run.manifest, STRETCHES, run.trained.vocabularies)
    batch_size = -(-num_rows // STRETCHES) * STRETCHES
    return _forward(run.config, sharded, replace(reading, global_batch_size=batch_size), num_rows, world)


def _forward(
    config: Config, sharded: ShardedModel, reading: Reading, num_rows: int, world: World
) -> list[list[Activations]]:
    head = sharded.pipeline.head
    assert isinstance(head, TrunkHead)
    ends = np.cumsum([len(level) for level in config.model.levels]) - 1
    parts: list[list[torch.Tensor]] = [[] for _ in ends]  # a head takes a batch in parts
    hooks = [
        head.trunk.layers[end].register_forward_hook(partial(_keep, of_level))
        for end, of_level in zip(ends, parts, strict=True)
    ]
    batches = open_stream(reading, world, 0, threads=config.data.threads)

    sharded.model.eval()
    try:
        with closing(batches), torch.no_grad():
            step = sharded.pipeline.progress(islice(batches, 1))
    finally:
        for hook in hooks:
            hook.remove()

    row_ids_B = step.row_ids_B.cpu()
    order_B = row_ids_B.argsort()[int((row_ids_B < 0).sum()) :]  # without padding
    chosen_B = order_B[torch.arange(min(num_rows, len(order_B))) * len(order_B) // min(num_rows, len(order_B))]
    levels = [torch.cat(of_level).cpu().float()[chosen_B].numpy() for of_level in parts]
    return [[level_BTH[:, task] for level_BTH in levels] for task in range(len(config.head_tasks))]


def _keep(kept: list[torch.Tensor], _module: nn.Module, _inputs: Any, outputs: Any) -> None:
    if isinstance(outputs, torch.Tensor):  # while torch.fx traces the model, outputs are proxies without values
        kept.append(outputs.detach())
