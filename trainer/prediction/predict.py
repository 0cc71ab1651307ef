"""Scores a dataset with a checkpoint of a run: one row out for every row in, in the order of the input.

    lane 0 of the rows as stored ─► OUT/part-00000.parquet ┐ rank 0
    lane 1                       ─► OUT/part-00001.parquet ┘
    lane 2                       ─► OUT/part-00002.parquet ┐ rank 1
    lane 3                       ─► OUT/part-00003.parquet ┘
    all of them complete         ─► OUT/_SUCCESS

A lane is a contiguous stretch of the rows. So the files in path order hold the rows in the order of the input, and they
are the same files on any number of ranks. Labels and weights are not read.

An error of one rank is raised on all ranks, after every batch, so that all can remove what they have written.

Shapes: B rows of a rank's batch, R rows of a lane in it, T tasks.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch

from data.batch import Batch
from data.columns.numbers import Float32
from data.discovery.source import Source
from data.hashing import Int64
from data.reading import Reading
from models.losses import predictions
from models.ranker import StepOutput
from models.sampling import NegativeSampling
from trainer.batches import open_stream
from trainer.build_model import ShardedModel
from trainer.checkpoint.trained_run import open_trained_run
from trainer.config.run_config import Config, EvaluateConfig
from trainer.console import count_progress
from trainer.datasets import test_reading
from trainer.distributed.world import EXPECTED_ERRORS, World
from trainer.evaluation.warnings import count_not_finite, describe_not_finite
from trainer.prediction.copied_columns import output_schema, parse_columns
from trainer.prediction.lane_file import LaneFile
from trainer.prediction.output_folder import OutputFolder, Scored


def predict_run(path: str, checkpoint: str, data: str | Source, out: str, columns: str, world: World) -> Scored:
    """Writes the predictions of the run at `path` for the dataset `data` to `out`. Collective: call on all ranks.

    `columns`: those of the input to copy, as in `a,b as c`. Raises an ExpectedError for whatever is wrong, after which
    `out` is as it was before.
    """
    folder = OutputFolder(out)
    trained = open_trained_run(path, world)
    config = without_labels(trained.config)
    tasks = trained.config.tasks
    manifest = trained.open_dataset(data, config)
    copied = parse_columns(columns, manifest, tasks)
    # Rank 0 alone looks at the folder before it writes: others may already see what it has made.
    world.on_rank_zero(lambda: folder.check(manifest))
    state = trained.find_checkpoint(checkpoint)
    sharded = trained.load(state)

    begin = time.perf_counter()
    reading = test_reading(config, manifest, trained.config.data.lanes, trained.vocabularies)
    schema = output_schema(manifest, tasks, copied)
    names = list(copied.values())
    lanes = world.lanes(reading.lanes)
    files = [LaneFile(folder, lane, schema, reading, names) for lane in lanes]

    with _removed_after_errors(folder, files, world):
        world.on_rank_zero(folder.create)
        score(trained.config, world, sharded, reading, files)

        # No rank gets beyond this before all ranks have completed their files: the marker may be written.
        own_names = [file.name for file in files if file.num_rows]
        names_of_ranks = world.gather(own_names)
        written = [name for names_of_rank in names_of_ranks for name in names_of_rank]
        seconds = time.perf_counter() - begin
        num_rows = manifest.num_rows
        num_files = len(written)
        scored = Scored(state.samples, manifest.fingerprint, num_rows, num_files, seconds)
        world.on_rank_zero(lambda: folder.finish(written, scored))

    return scored


def without_labels(config: Config) -> Config:
    """The config for a dataset of which only the features are needed."""
    data = config.data.model_copy(update={"weight": None})
    return config.model_copy(update={"tasks": (), "data": data, "evaluate": EvaluateConfig()})


@contextmanager
def _removed_after_errors(folder: OutputFolder, files: list[LaneFile], world: World) -> Iterator[None]:
    """Context that removes what has been written after an exception.

    An ExpectedError or RunError must be raised on all ranks.
    """
    try:
        yield
    except BaseException as error:
        for file in files:
            file.remove()
        if isinstance(error, EXPECTED_ERRORS):
            # Rank 0 can remove the folder only after all ranks have removed their files.
            world.gather(None)
        if world.is_rank_zero:
            folder.remove()
        raise


class Lane(Protocol):
    """What takes the predictions of a lane's rows."""

    def add(self, row_ids_R: Int64, predictions_RT: Float32) -> None:
        """Takes the next rows."""

    def finish(self) -> None:
        """There are no more."""


def score(config: Config, world: World, sharded: ShardedModel, reading: Reading, files: Sequence[Lane]) -> None:
    """Fills and completes what takes the rows of each of this rank's lanes. Collective: call on all ranks."""
    # Errors are exchanged while the pipeline's own collectives are under way, which a group apart does not disturb.
    errors = world.with_own_group()
    num_rows = reading.manifest.num_rows
    batch_size = reading.global_batch_size
    is_binary_T = torch.tensor([task.binary for task in config.tasks], device=world.device)
    sampling = NegativeSampling(config.tasks, world.device)
    batches = open_stream(reading, world, 0, threads=config.data.threads)
    progress = count_progress("scoring rows", num_rows) if world.is_rank_zero else nullcontext(lambda _: None)

    sharded.model.eval()
    with closing(batches), torch.no_grad(), progress as advance:
        unlabelled = _unlabelled(batches, len(config.tasks), errors)
        for number in range(reading.batches_per_epoch):
            step = sampling.undo(sharded.pipeline.progress(unlabelled))
            errors.raise_on_all_ranks(partial(_write, step, is_binary_T, files))
            advance(min(batch_size, num_rows - number * batch_size))

    not_finite = count_not_finite(reading.columns, batches.account.not_finite_D, errors)
    errors.raise_on_all_ranks(partial(_finish, files))
    if world.is_rank_zero:
        lines = describe_not_finite(not_finite, "of the input")
        sys.stderr.writelines(f"warning: {line}\n" for line in lines)


def _unlabelled(batches: Iterator[Batch], num_tasks: int, errors: World) -> Iterator[Batch]:
    """The batches with a missing label for every task. If one rank cannot read its batch, all ranks raise the error."""
    # Otherwise the others would wait for that rank in the next collective of the pipeline.
    while (batch := errors.raise_on_all_ranks(lambda: next(batches, None))) is not None:
        num_rows = len(batch.row_ids_B)
        missing_BT = torch.zeros(num_rows, num_tasks, dtype=torch.bool)
        yield replace(batch, labels_BT=missing_BT.float(), label_weights_BT=missing_BT.float())


def _write(step: StepOutput, is_binary_T: torch.Tensor, files: Sequence[Lane]) -> None:
    """Adds its rows of a batch to each lane's file."""
    predictions_BT = predictions(step.logits_BT, is_binary_T).cpu()
    # A batch holds the same number of rows of each lane, end to end.
    row_ids_of_lanes = step.row_ids_B.cpu().chunk(len(files))
    predictions_of_lanes = predictions_BT.chunk(len(files))

    for file, row_ids_R, predictions_RT in zip(files, row_ids_of_lanes, predictions_of_lanes, strict=True):
        # Padding, with row ids below 0, comes last in its lane.
        num_rows = int((row_ids_R >= 0).sum())
        row_ids_R = row_ids_R[:num_rows]
        predictions_RT = predictions_RT[:num_rows]
        file.add(row_ids_R.numpy(), predictions_RT.numpy())


def _finish(files: Sequence[Lane]) -> None:
    for file in files:
        file.finish()
