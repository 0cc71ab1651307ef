"""How fast training is, beside what the head's products alone would take on this machine.

The bound: samples/s if every rank did nothing but the head's forward and backward FLOPs at the rate of a large square
matrix product, measured in the same run on all ranks at once, with the same number of threads.
"""

import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Product, meet
from benchmarks.parts import bench_parts
from benchmarks.random_rows import write_random_rows
from data.batch import Batch
from data.statistics import measure
from data.storage.stored_files import StoredFiles
from models.cost import head_cost
from trainer.batches import open_stream
from trainer.build_model import ShardedModel, build_sharded_model
from trainer.checkpoint.folder import CheckpointFolder
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.state import State
from trainer.checkpoint.storage import LocalFolder
from trainer.checkpoint.store import StoreFolder
from trainer.config.measured import complete, with_block_rows
from trainer.config.run_config import Config
from trainer.datasets import as_configured, check_lanes, end_of_training, open_dataset, test_reading, train_reading
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.evaluation.evaluator import Evaluator
from trainer.process.host import peak_bytes
from trainer.run.vocabularies import Vocabularies, find_vocabularies
from trainer.step.pipeline import GuardedPipeline

WARM_UP_BATCHES = 10
BLOCKS = 6
"""Times that steps and products are timed in turn; figures are medians over them."""
_COPIED_BYTES = 1 << 28
"""Of the plain copy beside a save, at most: what is larger takes as much longer."""


def bench_train(config: Config, world: World, batches: int, random_ids: int | None = None) -> dict[str, Any]:
    """Trains a few batches without a run directory; figures as `--json` prints them. Collective: call on all ranks.

    `random_ids`: not on the config's data, but on random rows with so many ids for each feature, on average.
    """
    if random_ids is None:
        return _bench(config, world, batches)

    with _folder_beside_run(config, world) as folder:
        world.on_rank_zero(lambda: write_random_rows(config, folder / "rows", random_ids))
        rows = str(folder / "rows")
        data = config.data.model_copy(update={"train": rows, "test": rows, "repeat": True})
        return _bench(config.model_copy(update={"data": data}), world, batches)


@contextmanager
def _folder_beside_run(config: Config, world: World) -> Iterator[Path]:
    """A temporary folder where the run's would be, which all ranks see. Collective: call on all ranks."""
    parent = Path(config.run.dir).absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(world.on_rank_zero(lambda: folder))
        meet(world)


def _bench(config: Config, world: World, batches: int) -> dict[str, Any]:
    check_lanes(config, world)
    reading = train_reading(config, open_dataset(config.data.train_source, config, world))
    vocabularies = find_vocabularies(config, reading, world, lambda _: None)
    reading = as_configured(reading, config, vocabularies)
    config = world.on_rank_zero(lambda: with_block_rows(complete(config, measure(reading)), reading, world.size))
    reading = as_configured(reading, config, vocabularies)
    sharded = build_sharded_model(config, world, end_of_training(config, reading))
    source = open_stream(reading, world, 0, threads=config.data.threads)
    held = next(source)
    feed = islice(source, WARM_UP_BATCHES + (BLOCKS + 1) * batches)

    for _ in range(WARM_UP_BATCHES):
        sharded.pipeline.begin()
        sharded.pipeline.progress(feed)

    waited = source.times.wait
    product = Product(world.device)
    rates = []
    seconds = []

    for _ in range(BLOCKS):  # in turn, since the speed of a shared machine drifts
        rates.append(_product_rate(product, world))
        seconds.append(_block_seconds(sharded.pipeline, feed, batches, world))

    waited = source.times.wait - waited
    saving = _bench_saving(config, world, sharded, feed, batches, statistics.median(seconds))
    evaluating = _bench_evaluation(config, world, sharded, held, batches, vocabularies)
    parts = bench_parts(config, world, sharded, reading, source)
    source.close()
    flops = head_flops_per_sample(config)
    block_samples = batches * reading.global_batch_size
    fractions: list[float] = []

    for rate, block in zip(rates, seconds, strict=True):
        reached = block_samples / block * flops
        fractions.append(reached / (rate * world.size))

    rate = statistics.median(rates)
    return {
        "world_size": world.size,
        "samples_per_second": block_samples / statistics.median(seconds),
        "step_seconds": statistics.median(seconds) / batches,
        "data_wait_fraction": waited / sum(seconds),
        **saving,
        **evaluating,
        **parts,
        "head_limit_seconds": reading.global_batch_size * flops / (rate * world.size),
        "peak_bytes": peak_bytes(),
        "threads": torch.get_num_threads(),
        "head_flops_per_sample": flops,
        "matmul_flops_per_second": rate,
        "bound_samples_per_second": rate * world.size / flops,
        "fraction_of_bound": statistics.median(fractions),
    }


def _bench_saving(
    config: Config, world: World, sharded: ShardedModel, feed: Iterator[Batch], batches: int, block_seconds: float
) -> dict[str, float]:
    """What a save costs training: the wait for the copy, then slower steps while it is written, to where the run's are.

    The limit is a plain copy of as many bytes from memory to memory, on all ranks at once.
    """
    with _checkpoint_folder(config, world) as folder:
        written: list[float] = []
        checkpoints = Checkpoints(folder, world)
        for samples in (1, 2):  # the first one makes the buffers
            state = State(samples=samples, **_STATE)
            meet(world)
            before = checkpoints.stall_seconds
            begin = time.perf_counter()
            checkpoints.save(sharded, state, 1, lambda _, seconds: written.append(seconds))
            stall = checkpoints.stall_seconds - before
            if samples == 2:
                saving_block = _block_seconds(sharded.pipeline, feed, batches, world)
            if problem := checkpoints.finish():
                raise RunError(problem)
            seconds = time.perf_counter() - begin

        size = world.on_rank_zero(lambda: _checkpoint_bytes(folder))
        part = min(size // world.size, _COPIED_BYTES)
        copied = torch.ones(part // 4)
        target = torch.ones_like(copied)
        meet(world)
        begin = time.perf_counter()
        target.copy_(copied)
        copy_seconds = (time.perf_counter() - begin) * size / world.size / part
        meet(world)

    return {
        "checkpoint_stall_seconds": stall,
        "checkpoint_copy_seconds": copy_seconds,
        "checkpoint_bytes": size,
        "checkpoint_seconds": seconds,
        "checkpoint_slowdown_seconds": saving_block - block_seconds,
    }


@contextmanager
def _checkpoint_folder(config: Config, world: World) -> Iterator[CheckpointFolder]:
    """A place for checkpoints beside those of the run, which is empty again at the end. Collective."""
    if config.checkpoint.dir is None:
        with _folder_beside_run(config, world) as path:
            yield LocalFolder(path)
        return

    files = StoredFiles(config.checkpoint.dir, "checkpoint.dir")
    inner = files.below(world.on_rank_zero(lambda: f"bench-{secrets.token_hex(4)}"))
    try:
        yield LocalFolder(Path(inner.root)) if inner.is_local else StoreFolder(inner)
    finally:
        meet(world)
        if world.is_rank_zero:
            inner.delete_folder("")


def _checkpoint_bytes(folder: CheckpointFolder) -> int:
    return sum(record.bytes for record in folder.state("2").files.values())


def _bench_evaluation(
    config: Config, world: World, sharded: ShardedModel, held: Batch, batches: int, vocabularies: Vocabularies
) -> dict[str, float]:
    """Rows/s of an evaluation; its limit is the forward pass alone, over and over on one batch in memory."""
    manifest = open_dataset(config.data.test_source or config.data.train_source, config, world)
    batch = config.data.global_batch_size
    num_groups = int(np.searchsorted(manifest.rows.cumsum(), BLOCKS * batches * batch)) + 1
    part = manifest.of_groups(np.arange(min(num_groups, len(manifest.rows))))
    evaluator = Evaluator(config, world, sharded, test_reading(config, part, world.size, vocabularies))
    evaluation = []
    forward = []
    evaluator.run(0)  # the first one also reads what is known of the truth

    for _ in range(BLOCKS):
        evaluation.append(evaluator.run(0).records[0].seconds)
        sharded.model.eval()
        with torch.no_grad():
            same_batch = islice(repeat(held), batches)
            forward.append(_block_seconds(sharded.pipeline, same_batch, batches, world))
        sharded.model.train()

    return {
        "forward_samples_per_second": batches * batch / statistics.median(forward),
        "evaluation_samples_per_second": part.num_rows / statistics.median(evaluation),
    }


_STATE: dict[str, Any] = {
    "pinned": False,
    "segment": 0,
    "world_size": 1,
    "plan": {},
    "fingerprints": {},
    "config": {},
    "log": {},
    "versions": {},
    "files": {},
}


def _block_seconds(pipeline: GuardedPipeline, feed: Iterator[Batch], batches: int, world: World) -> float:
    meet(world)
    begin = time.perf_counter()
    for _ in range(batches):
        pipeline.begin()
        pipeline.progress(feed)
    meet(world)
    return time.perf_counter() - begin


def head_flops_per_sample(config: Config) -> float:
    """Forward and backward FLOPs of the head's matrix products, per sample; its input gets a gradient too."""
    columns = config.columns
    return head_cost(config.model, columns, config.head_tasks).training_flops


def _product_rate(product: Product, world: World) -> float:
    """FLOP/s of a large matrix product on this rank, all ranks computing at once; the mean over ranks."""
    rates = []
    for _ in range(4):
        meet(world)
        rates.append(product.flops_per_second())
    rate = torch.tensor(statistics.median(rates), device=world.device)
    return float(world.sum(rate)) / world.size
