"""Scores a dataset with a checkpoint of a run: one row out for every row in, in the order of the input.

    lane 0 of the rows as stored ─► OUT/part-00000.parquet ┐ rank 0
    lane 1                       ─► OUT/part-00001.parquet ┘
    lane 2                       ─► OUT/part-00002.parquet ┐ rank 1
    lane 3                       ─► OUT/part-00003.parquet ┘
    all of them complete         ─► OUT/_SUCCESS

A lane is a contiguous stretch of the rows, so the files in path order hold the rows in the order of the input, and they
are the same files on any number of ranks (`trainer.evaluation.prediction_files`). Labels and weights are not read.

What goes wrong on one rank is raised on all, after every batch, so that all can remove what they have written.

Shapes: B rows of a rank's batch, L lanes of a rank, T tasks.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pyarrow as pa
import torch

from data.batch import Batch
from data.columns.kinds import common_type
from data.columns.types import missing_column_hint
from data.manifest import Manifest
from data.reading import Reading
from data.storage.manifest_file import load_manifest
from data.stream import stream
from models.ranker import StepOutput
from models.tasks import TaskConfig
from trainer.build_model import ShardedModel, build_sharded_model
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.selection import checkpoint_name
from trainer.config.run_config import Config, EvaluateConfig
from trainer.console import count_progress
from trainer.datasets import check_lanes, check_same_kinds, open_dataset, test_reading
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.evaluation.not_finite import count_not_finite, describe_not_finite
from trainer.evaluation.prediction_files import LaneFile, Output, Scored, removed_after_errors
from trainer.run.directory import RunDirectory
from trainer.run.origin import origin_of

Result = TypeVar("Result")
ROW_COLUMN = "row"


def predict_run(path: str, checkpoint: str, data: str, out: str, columns: str, world: World) -> Scored:
    """Writes the predictions of the run at `path` for the dataset `data` to `out`. Collective: call on all ranks.

    `columns`: those of the input to copy, as in `a,b as c`. ExpectedError for whatever is wrong; `out` is then as
    before.
    """
    run, output = RunDirectory(path), Output(out)
    config = world.on_rank_zero(run.read_config)
    check_lanes(config, world)
    manifest = open_dataset(data, _without_labels(config), world)
    world.on_rank_zero(
        lambda: check_same_kinds(load_manifest(run.manifests["train"]), manifest, _without_labels(config))
    )
    copied = parse_columns(columns, manifest, config.tasks)
    world.on_rank_zero(lambda: output.check(manifest))
    checkpoints = Checkpoints(run.checkpoints, world, world.on_rank_zero(lambda: origin_of(run, config)))
    state = checkpoints.find(world.on_rank_zero(lambda: checkpoint_name(checkpoint, run, config)))
    sharded = build_sharded_model(config, world, config.train.samples, saves=False)
    checkpoints.load(state, sharded.model, None)

    begin = time.perf_counter()
    reading = test_reading(_without_labels(config), manifest, config.data.lanes)
    schema = _schema(manifest, config.tasks, copied)
    files = [LaneFile(output, lane, schema, reading, list(copied.values())) for lane in world.lanes(reading.lanes)]
    with removed_after_errors(output, files, world):
        world.on_rank_zero(output.create)
        _score(config, world, sharded, reading, files)
        names = [name for names in world.gather([file.name for file in files if file.rows]) for name in names]
        seconds = time.perf_counter() - begin
        scored = Scored(state.samples, manifest.fingerprint, manifest.num_rows, len(names), seconds)
        world.on_rank_zero(lambda: output.finish(names, scored))
    return scored


def parse_columns(text: str, manifest: Manifest, tasks: tuple[TaskConfig, ...]) -> dict[str, str]:
    """The columns to copy: their names in the input by those in the output; ConfigError where one cannot be copied."""
    copied: dict[str, str] = {}
    taken = {ROW_COLUMN: "the number of the row", **{task.name: "a task's prediction" for task in tasks}}
    known = manifest.schema.names
    for entry in filter(None, map(str.strip, text.split(","))):
        name, _, new = (part.strip() for part in ((entry, "", "") if entry in known else entry.partition(" as ")))
        new = new or name
        if name not in known:
            hint = missing_column_hint(manifest, name)
            raise ConfigError(f"--columns: no column {name!r} in {manifest.uri}; it has {', '.join(known)}{hint}")
        if known.count(name) > 1:
            raise ConfigError(f"--columns: two columns of {manifest.uri} are called {name!r}; rename one")
        if new in taken:
            raise ConfigError(
                f"--columns: {new!r} is {taken[new]} in the output; give the column another name: "
                f"'{name} as input_{new}'"
            )
        copied[new], taken[new] = name, "another column"
    return copied


def _without_labels(config: Config) -> Config:
    """The config as it would be if nothing were known of the rows but their features."""
    data = config.data.model_copy(update={"weight": None})
    return config.model_copy(update={"tasks": (), "data": data, "evaluate": EvaluateConfig()})


def _schema(manifest: Manifest, tasks: tuple[TaskConfig, ...], copied: dict[str, str]) -> pa.Schema:
    predictions = [(task.name, pa.float32()) for task in tasks]
    return pa.schema(
        [(ROW_COLUMN, pa.int64()), *predictions] + [(new, common_type(manifest, name)) for new, name in copied.items()]
    )


def _score(config: Config, world: World, sharded: ShardedModel, reading: Reading, files: list[LaneFile]) -> None:
    """Fills the files of this rank's lanes. Collective: call on all ranks."""
    meeting, rows, size = world.with_own_group(), reading.manifest.num_rows, reading.global_batch_size
    is_binary_T = torch.tensor([task.binary for task in config.tasks], device=world.device)
    pinned = world.device.type == "cuda"
    progress = count_progress("scoring rows", rows) if world.is_rank_zero else nullcontext(lambda _: None)
    sharded.model.eval()
    with (
        closing(stream(reading, world.lanes(reading.lanes), 0, threads=config.data.threads, pin=pinned)) as batches,
        torch.no_grad(),
        progress as advance,
    ):
        features = _features(batches, len(config.tasks), meeting)
        for number in range(reading.batches_per_epoch):
            output = sharded.pipeline.progress(features)
            meeting.raise_on_all_ranks(partial(_write, output, is_binary_T, files))
            advance(min(size, rows - number * size))
    not_finite = count_not_finite(reading.columns, batches.not_finite_D, meeting)
    meeting.raise_on_all_ranks(partial(_finish, files))
    if world.is_rank_zero:
        sys.stderr.writelines(f"warning: {line}\n" for line in describe_not_finite(not_finite, "of the input"))


def _features(batches: Iterator[Batch], num_tasks: int, meeting: World) -> Iterator[Batch]:
    """The batches with a missing label for every task; what went wrong in reading them is raised on all ranks."""
    while (batch := meeting.raise_on_all_ranks(lambda: next(batches, None))) is not None:
        rows = len(batch.row_ids_B)
        missing_BT = torch.zeros(rows, num_tasks, dtype=torch.bool)
        yield replace(batch, labels_BT=missing_BT.float(), label_mask_BT=missing_BT)


def _write(output: StepOutput, is_binary_T: torch.Tensor, files: list[LaneFile]) -> None:
    """Gives every lane its rows of a batch; those that pad it come last in their lane."""
    predictions_BT = torch.where(is_binary_T, output.logits_BT.sigmoid(), output.logits_BT).cpu()
    lanes = zip(output.row_ids_B.cpu().chunk(len(files)), predictions_BT.chunk(len(files)), strict=True)
    for file, (row_ids_R, predictions_RT) in zip(files, lanes, strict=True):
        rows = int((row_ids_R >= 0).sum())
        file.add(row_ids_R[:rows].numpy(), predictions_RT[:rows].numpy())


def _finish(files: list[LaneFile]) -> None:
    for file in files:
        file.finish()
