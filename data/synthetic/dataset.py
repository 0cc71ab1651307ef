"""Writes a synthetic short-video log whose true conditional means are known.

    OUT/train/part-00000.parquet …   one day of the log each, 262,144 impressions
    OUT/validation/…                 the days after, if asked for: to choose hyper-parameters on
    OUT/test/part-00000.parquet …    the days after
    OUT/schema.json                  columns and their roles
    OUT/world.json                   seed, tasks, and what a model that knew the truth would score on the test set

A file is a pure function of (seed, split, number, rows), but for its date and first row_id, which follow from the
number of train rows. Processes only decide who writes which file, and a file is written one row group at a time: the
bytes do not depend on the number of processes, nor the memory on the number of samples.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from data.discovery.schema import Column
from data.errors import DataError
from data.storage.writer import ROW_GROUP_ROWS, staged_directory, write_parquet, write_schema
from data.synthetic.log import (
    DAY_MS,
    FEATURE_COLUMNS,
    HOUR_MS,
    KEY_COLUMNS,
    draw_impressions,
    feature_arrays,
    times_of_day,
)
from data.synthetic.score import TaskSummary, no_sums, summarise, watched
from data.synthetic.tasks import TASK_GROUPS, TaskGroup, build_label_model, draw_labels, hidden_signals, true_mean
from data.synthetic.world import Doubles, Integers, Random, build_world, random_stream

ROWS_PER_FILE = 8 * ROW_GROUP_ROWS
WORLD_FILE = "world.json"
_FIRST_DAY_MS = 1_735_689_600_000  # 2025-01-01 UTC
Split = Literal["train", "validation", "test"]
_SPLIT_KEYS: dict[Split, int] = {"train": 3, "validation": 5, "test": 4}
"""Of random streams; the world and its tasks have 0, 1 and 2."""
_ARROW_TYPES = {str(kind): kind for kind in (pa.int64(), pa.int8(), pa.float32(), pa.list_(pa.int64()))}


@dataclass(frozen=True)
class SynthSummary:
    """What was written."""

    train_rows: int
    test_rows: int
    files: int
    tasks: tuple[TaskSummary, ...]
    validation_rows: int = 0


@dataclass(frozen=True)
class _Part:
    """One file to write."""

    split: Split
    number: int
    rows: int
    first_row: int
    day: int


def synthesise(  # noqa: PLR0913 (the command's options)
    out: Path,
    samples: int,
    test_samples: int,
    tasks: TaskGroup,
    seed: int = 0,
    processes: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
    validation_samples: int = 0,
) -> SynthSummary:
    """Write the dataset; `progress` receives the rows of each file as it is finished.

    Raises DataError if an argument or OUT cannot be used; nothing is left behind after any error.
    """
    _check(samples, test_samples, tasks, seed, processes)
    parts = _plan(samples, test_samples, validation_samples)
    workers = min(processes or os.cpu_count() or 1, len(parts))
    sums_T3 = {split: no_sums(TASK_GROUPS[tasks]) for split in _SPLIT_KEYS}

    with staged_directory(out) as folder:
        with closing(_in_order(partial(_write_part, folder, seed, tasks), parts, workers)) as results:
            for part, part_sums_T3 in zip(parts, results, strict=True):
                sums_T3[part.split] += part_sums_T3
                progress(part.rows)

        summaries: list[TaskSummary] = []
        for index, task in enumerate(TASK_GROUPS[tasks]):
            train_sums_3 = sums_T3["train"][index]
            test_sums_3 = sums_T3["test"][index]
            summaries.append(summarise(task, train_sums_3, samples, test_sums_3, test_samples))

        summary = SynthSummary(samples, test_samples, len(parts), tuple(summaries), validation_samples)
        write_schema(folder, dataset_columns(tasks))
        world = {"seed": seed, "group": tasks, **asdict(summary)}
        (folder / WORLD_FILE).write_text(json.dumps(world, indent=2) + "\n", encoding="utf-8")

    return summary


def dataset_columns(group: TaskGroup) -> list[Column]:
    """Every column of the dataset, in order."""
    tasks = TASK_GROUPS[group]
    labels: list[Column] = []
    oracles: list[Column] = []

    for task in tasks:
        stored = "int8" if task.kind == "binary" else "float"
        labels.append(Column(task.name, stored, "label", task.description))
        oracles.append(Column(f"oracle_{task.name}", "float", "oracle", f"true mean of {task.name}"))

    return [*KEY_COLUMNS, *FEATURE_COLUMNS, *labels, *oracles]


def _check(samples: int, test_samples: int, group: str, seed: int, processes: int | None) -> None:
    if samples < 1:
        raise DataError(f"samples = {samples}: a dataset needs at least 1")
    if test_samples < 0:
        raise DataError(f"test samples = {test_samples}: give 0 for no test set, or more")
    if group not in TASK_GROUPS:
        raise DataError(f"tasks = {group!r} is unknown; choose one of {', '.join(TASK_GROUPS)}")
    if seed < 0:
        raise DataError(f"seed = {seed}: give 0 or more")
    if processes is not None and processes < 1:
        raise DataError(f"processes = {processes}: give 1 or more")


def _plan(samples: int, test_samples: int, validation_samples: int = 0) -> list[_Part]:
    """The files in the order of time: a day each, test after train."""
    parts: list[_Part] = []
    first_row = 0
    rows_of: dict[Split, int] = {"train": samples, "validation": validation_samples, "test": test_samples}
    for split, rows in rows_of.items():
        parts += _split_parts(split, rows, first_row, len(parts))
        first_row += rows

    return parts


def _split_parts(split: Split, rows: int, first_row: int, first_day: int) -> Iterator[_Part]:
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        size = min(ROWS_PER_FILE, rows - start)
        yield _Part(split, number, size, first_row + start, first_day + number)


def _in_order(write: Callable[[_Part], Doubles], parts: list[_Part], workers: int) -> Generator[Doubles, None, None]:
    """Results in the order of `parts`, with a bounded number waiting; all work has ended when the generator closes."""
    if workers == 1:
        yield from map(write, parts)
        return

    context = multiprocessing.get_context("forkserver")
    unwanted = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(unwanted,))
    running: deque[Future[Doubles]] = deque()

    try:
        for part in parts:
            running.append(pool.submit(write, part))
            if len(running) == 2 * workers:
                yield running.popleft().result()

        while running:
            yield running.popleft().result()
    except BaseException:
        unwanted.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(unwanted: Event) -> None:
    """Ctrl-C reaches every process of the terminal; only the parent acts on it, and no worker outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_end_when_unwanted, args=(unwanted,), daemon=True).start()


def _end_when_unwanted(unwanted: Event) -> None:
    """At once: to finish a file that is then removed may take longer than a command has for its end."""
    unwanted.wait()
    os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # it waits for work that does not come


def _write_part(folder: Path, seed: int, group: TaskGroup, part: _Part) -> Doubles:
    """Write one file; returns its sums_T3 (see `synth_score`)."""
    fields = [(column.name, _ARROW_TYPES[column.type]) for column in dataset_columns(group)]
    schema = pa.schema(fields)
    sums_T3 = no_sums(TASK_GROUPS[group])
    tables = watched(_row_groups(schema, seed, group, part), TASK_GROUPS[group], sums_T3)
    write_parquet(folder / part.split / f"part-{part.number:05d}.parquet", schema, tables)
    return sums_T3


def _row_groups(schema: pa.Schema, seed: int, group: TaskGroup, part: _Part) -> Iterator[pa.Table]:
    key = (_SPLIT_KEYS[part.split], part.number)
    features = random_stream(seed, *key)
    # a stream for each task: click has the same labels in every group
    labels = {task.name: random_stream(seed, *key, task.number) for task in TASK_GROUPS[group]}
    time_B = _FIRST_DAY_MS + part.day * DAY_MS + times_of_day(features, part.rows)
    row_B = part.first_row + np.arange(part.rows)

    for start in range(0, part.rows, ROW_GROUP_ROWS):
        rows = slice(start, start + ROW_GROUP_ROWS)
        arrays = {"row_id": pa.array(row_B[rows]), "timestamp": pa.array(time_B[rows])}
        arrays |= _feature_and_outcome_arrays(seed, group, time_B[rows], features, labels)
        yield pa.table({name: arrays[name] for name in schema.names}, schema)


def _feature_and_outcome_arrays(
    seed: int, group: TaskGroup, time_B: Integers, features: Random, labels: dict[str, Random]
) -> dict[str, pa.Array]:
    world = build_world(seed)
    model = build_label_model(seed, group)
    shown = draw_impressions(world, features, time_B // HOUR_MS % 24)
    signal_BC = hidden_signals(world, model.signals, shown)
    arrays = feature_arrays(world, shown)

    for fitted in model.tasks:
        name = fitted.task.name
        mean_B = true_mean(fitted, signal_BC, shown.context["tab"])
        arrays[name] = pa.array(draw_labels(fitted.task, mean_B, labels[name]))
        arrays[f"oracle_{name}"] = pa.array(mean_B)

    return arrays
