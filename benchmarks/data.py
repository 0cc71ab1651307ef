"""How fast batches are read, beside Arrow's decoding of the same columns, and beside what a user would write instead.

Everything is timed in turn, round after round, since the speed of a shared machine drifts; figures are medians over
rounds, and ratios are medians of the ratios within a round. The stream is timed from the first batch to the one that
stands as far into later row groups of all lanes, so that as much is decoded ahead at the end as at the beginning.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.plain_reading import RowGroups, plain_batches, raw_row_groups
from benchmarks.schemas import SCHEMAS
from data.discovery.dataset import read_manifest
from data.order import OrderName
from data.reading import Reading
from data.settings import Settings
from data.statistics import measure
from data.stream import stream
from trainer.config.measured import complete, with_block_rows
from trainer.config.run_config import Config
from trainer.datasets import as_configured, check_columns, train_reading
from trainer.errors import ConfigError
from trainer.process.host import peak_bytes

THREADS = (1, 2)
ORDERS: tuple[OrderName, ...] = ("shuffled", "stored")


PLAIN_SPARSE = {"column", "table", "name", "hash", "missing", "pooling"}
PLAIN_DENSE = {"column", "transform", "mean", "scale", "missing"}
PLAIN_TASK = {"name", "kind", "label", "missing", "auxiliary", "weight", "label_mean", "label_scale"}
"""Keys that the loops read, or that are nothing to them."""


def bench_config(config: Config, rounds: int, rows: int) -> list[dict[str, Any]]:
    """Figures on the training data of a config."""
    manifest = read_manifest(config.data.train_source, cache=None)
    check_columns(manifest, config)
    _check_plain(config)
    reading = train_reading(config, manifest)
    config = with_block_rows(complete(config, measure(reading)), reading, world_size=1)
    reading = as_configured(reading, config, {})
    return bench_reading(Path(config.run.dir).name, reading, rounds, rows)


def _check_plain(config: Config) -> None:
    """Raises ConfigError if a recipe is beyond the loops that the stream is compared with."""
    read = {
        entry.column: _recipe(entry, PLAIN_DENSE - ({"transform"} if entry.transform == "sqrt" else set()))
        for entry in config.features.dense
    }
    read |= {entry.name: _recipe(entry, PLAIN_SPARSE) for entry in config.features.sparse}
    read |= {entry.name: _recipe(entry, PLAIN_TASK) for entry in config.tasks}
    for name, keys in read.items():
        if keys or "." in name:
            what = f"has {', '.join(keys)}" if keys else "is a path"
            raise ConfigError(f"{name!r} {what}, which the loops to compare with do not know; measure without it")


def _recipe(entry: Settings, plain: set[str]) -> list[str]:
    """The keys that say more than what the loops read."""
    return list(entry.model_dump(exclude_defaults=True, exclude=plain))


def bench_schema(name: str, rounds: int, rows: int) -> list[dict[str, Any]]:
    """Figures on a dataset of random rows, which is written to a temporary folder first."""
    schema = SCHEMAS[name]
    with tempfile.TemporaryDirectory() as folder:
        schema.write(Path(folder))
        manifest = read_manifest(folder, cache=None)
        reading = Reading(manifest, schema.columns, global_batch_size=1024, lanes=8, order="shuffled", seed=17)
        return bench_reading(name, reading, rounds, rows)


def bench_reading(name: str, reading: Reading, rounds: int, rows: int) -> list[dict[str, Any]]:
    """One record for each order and number of threads, as `--json` prints them."""
    torch.set_num_threads(1)
    round_of_lanes = reading.lanes * int(np.median(reading.manifest.rows))
    rows = -(-rows // round_of_lanes) * round_of_lanes
    sources: dict[tuple[object, ...], Callable[[], float]] = {
        ("raw",): lambda: _raw_rate(reading, rows),
        ("loop",): lambda: _loop_rate(reading, rows),
        **{("loader", workers): _loader_timer(reading, rows, workers) for workers in THREADS},
        **{
            (order, threads): _stream_timer(replace(reading, order=order), rows, threads)
            for order in ORDERS
            for threads in THREADS
        },
    }
    for source in sources.values():
        source()  # the first one compiles, and fills the file cache

    found: dict[tuple[object, ...], list[float]] = {key: [] for key in sources}
    for _ in range(rounds):
        for key, source in sources.items():
            found[key].append(source())

    def median(*key: object) -> float:
        return statistics.median(found[key])

    def ratio(one: tuple[object, ...], other: tuple[object, ...]) -> float:
        return statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))

    records = []
    for order in ORDERS:
        for threads in THREADS:
            key = (order, threads)
            records.append(
                {
                    "schema": name,
                    "order": order,
                    "threads": threads,
                    "rows_per_second": median(*key),
                    "raw_rows_per_second": median("raw"),
                    "fraction_of_raw": ratio(key, ("raw",)),
                    "of_one_thread": ratio(key, (order, 1)),
                    "loop_rows_per_second": median("loop"),
                    "of_loop": ratio(key, ("loop",)),
                    "dataloader_rows_per_second": median("loader", threads),
                    "of_dataloader": ratio(key, ("loader", threads)),
                    **_stages(replace(reading, order=order), rows, threads),
                    "peak_bytes": peak_bytes(),
                }
            )
    return records


def _rate(batches: Iterator[Any], rows: int, batch_rows: int) -> float:
    """Rows per second after the first batch, which starts what runs beside it."""
    next(batches)
    begin = time.perf_counter()
    taken = sum(1 for _ in islice(batches, rows // batch_rows))
    return taken * batch_rows / (time.perf_counter() - begin)


def _raw_rate(reading: Reading, rows: int) -> float:
    begin = time.perf_counter()
    read = 0
    for table in raw_row_groups(reading):
        read += table.num_rows
        if read >= rows:
            break
    return read / (time.perf_counter() - begin)


def _loop_rate(reading: Reading, rows: int) -> float:
    return _rate(plain_batches(reading, cycle(range(len(reading.manifest.rows)))), rows, reading.global_batch_size)


def _loader_timer(reading: Reading, rows: int, workers: int) -> Callable[[], float]:
    def rate() -> float:
        loader = DataLoader(RowGroups(reading), batch_size=None, num_workers=workers, prefetch_factor=4)
        batches = iter(loader)
        found = _rate(batches, rows // 4, reading.global_batch_size)  # it is slow
        del batches
        return found

    return rate


def _stream_timer(reading: Reading, rows: int, threads: int) -> Callable[[], float]:
    def rate() -> float:
        batches = stream(reading, range(reading.lanes), 0, threads=threads)
        try:
            return _rate(batches, rows, reading.global_batch_size)
        finally:
            batches.close()

    return rate


def _stages(reading: Reading, rows: int, threads: int) -> dict[str, float]:
    """Microseconds a row that all threads together spend on each stage; the stream is a little ahead of its rows."""
    batches = stream(reading, range(reading.lanes), 0, threads=threads)
    taken = sum(1 for _ in islice(batches, rows // reading.global_batch_size))
    times = batches.times
    batches.close()
    scale = 1e6 / (taken * reading.global_batch_size)
    return {
        "read_microseconds": times.read * scale,
        "decode_microseconds": times.decode * scale,
        "gather_microseconds": times.gather * scale,
    }
