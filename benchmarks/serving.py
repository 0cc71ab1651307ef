"""How fast an export answers: raw rows → inputs → predictions, beside the trained model and the head's products.

The bound: the head's forward FLOPs at the rate of a large square matrix product, measured in the same run.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.machine import Product
from data.batch import Batch
from data.discovery.source import source_of
from models.cost import head_cost
from trainer.batches import open_stream
from trainer.checkpoint.trained_run import TrainedRun, open_trained_run
from trainer.datasets import open_manifest, test_reading
from trainer.distributed.world import World
from trainer.export.export import write_model
from trainer.export.rows import draw_rows, raw_rows, take_rows, write_rows
from trainer.export.standalone.features import Recipe
from trainer.export.tables import TABLE_FORMATS
from trainer.prediction.predict import without_labels

BATCHES = (1, 64, 1024)
MOST_SECONDS = 2.0
"""Of one thing that is timed."""


def bench_serving(path: str, checkpoint: str, world: World, rounds: int) -> Iterator[dict[str, Any]]:
    """Figures for each number of rows, as `--json` prints them; seconds are medians."""
    trained = open_trained_run(path, world)
    config = without_labels(trained.config)
    manifest = trained.open_dataset(config.data.test_source or config.data.train_source, config)
    state = trained.find_checkpoint(checkpoint)
    drawn = draw_rows(manifest, config.features.columns, max(BATCHES))
    drawn *= -(-max(BATCHES) // sum(table.num_rows for table in drawn))  # a smaller dataset several times
    model = trained.load(state).model.eval()
    product = Product(world.device)
    flops = head_cost(trained.config.model, trained.config.columns, trained.config.head_tasks).forward_flops

    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        networks: dict[str, Callable[..., Any]] = {}
        for kind in TABLE_FORMATS:
            folder = Path(scratch) / kind
            folder.mkdir()
            write_model(folder, trained, state, kind)
            networks[kind] = torch.export.load(folder / "model.pt2").module()
        recipe = Recipe(folder / "features.json")

        for num_rows in BATCHES:
            rows = take_rows(drawn, np.arange(num_rows))
            raw = list(raw_rows(rows))
            sparse, dense = recipe.inputs(raw)
            tensors = {
                name: {key: torch.from_numpy(array) for key, array in ids.items()} for name, ids in sparse.items()
            }
            batch = _batch(trained, rows, Path(scratch) / f"{num_rows} rows")
            timed: dict[str, Callable[[], Any]] = {
                "inputs": partial(recipe.inputs, raw),
                "trained": partial(model, batch),
            }
            for name, network in networks.items():
                timed[name] = partial(network, tensors, torch.from_numpy(dense))
            seconds = _in_turn(timed, rounds)
            yield {
                "rows": num_rows,
                "threads": torch.get_num_threads(),
                **{f"{name}_seconds": statistics.median(values) for name, values in seconds.items()},
                **{f"{name}_seconds_99": float(np.quantile(values, 0.99)) for name, values in seconds.items()},
                "limit_seconds": num_rows * flops / product.flops_per_second(),
            }


def _batch(trained: TrainedRun, rows: list[pa.Table], folder: Path) -> Batch:
    """The rows as the trained model reads them."""
    write_rows(folder, rows)
    manifest = open_manifest(source_of(str(folder)))
    reading = test_reading(without_labels(trained.config), manifest, 1, trained.vocabularies)
    with closing(open_stream(replace(reading, global_batch_size=manifest.num_rows), trained.world, 0)) as batches:
        batch = next(batches)
    unlabelled = torch.zeros(manifest.num_rows, len(trained.config.tasks))
    return replace(batch, labels_BT=unlabelled, label_weights_BT=unlabelled)


def _in_turn(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, one after the other in each round: the speed of a shared machine drifts."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:  # the first call warms up
                seconds[name].append(time.perf_counter() - start)
        if number and time.perf_counter() - begin > MOST_SECONDS * len(functions):
            break
    return seconds
