"""Small datasets and configs for the trainer's tests."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.config.load import parse_config
from trainer.config.run_config import Config

USERS, VIDEOS = 50, 30


def write_dataset(folder: Path, rows: int, seed: int, rows_per_group: int = 97) -> None:
    """Click and watch time that depend on user and video; a label of `rare` is missing in every third row."""
    random = np.random.Generator(np.random.Philox(seed))
    taste = np.random.Generator(np.random.Philox(0)).normal(size=USERS + VIDEOS)
    user, video = random.integers(0, USERS, rows), random.integers(0, VIDEOS, rows)
    lengths = random.integers(0, 4, rows)
    signal = taste[user] + taste[USERS + video]
    chance = 1 / (1 + np.exp(-signal))
    rare = random.random(rows) < 0.1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    table = pa.table(
        {
            "user": user,
            "video": pa.array([f"v{number}" for number in video]),
            "recent": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), random.integers(0, VIDEOS, offsets[-1])),
            "age": pa.array(random.exponential(10, rows), pa.float32(), mask=random.random(rows) < 0.05),
            "click": pa.array(random.random(rows) < chance, pa.int8()),
            "rare": pa.array(rare.astype("int8"), mask=np.arange(rows) % 3 == 0),
            "watch": pa.array(signal + random.normal(size=rows), pa.float32()),
            "weight": pa.array(random.random(rows) + 0.5, pa.float32()),
            "oracle_click": pa.array(chance, pa.float32()),
        }
    )
    folder.mkdir(parents=True)
    half = rows // 2
    pq.write_table(table.slice(0, half), folder / "part-0.parquet", row_group_size=rows_per_group)
    pq.write_table(table.slice(half), folder / "part-1.parquet", row_group_size=rows_per_group)


def copy_with_overflows(dataset: Path, folder: Path, rows: list[int]) -> Path:
    """A copy of the dataset in `folder`; the squared errors of these rows of its part-1 overflow."""
    shutil.copytree(dataset, folder)
    path = folder / "train" / "part-1.parquet"
    table = pq.read_table(path)
    watch = table["watch"].to_numpy().copy()
    watch[rows] = 1e30
    index = table.schema.get_field_index("watch")
    pq.write_table(table.set_column(index, "watch", pa.array(watch, pa.float32())), path, row_group_size=97)
    return folder


def config_values(folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A config that trains on `folder`/train in a few seconds; keyword arguments change keys of its sections."""
    values: dict[str, Any] = {
        "run": {"dir": str(folder / "run")},
        "data": {
            "train": str(folder / "train"),
            "test": str(folder / "test"),
            "global_batch_size": 64,
            "lanes": 4,
        },
        "features": {
            "dense": [{"column": "age", "transform": "log1p"}],
            "sparse": [
                {"column": "user", "table": "user"},
                {"column": "video", "table": "video", "hash": True},
                {"column": "recent", "table": "video"},
            ],
        },
        "tables": [{"name": "user", "rows": USERS, "dim": 8}, {"name": "video", "rows": 64, "dim": 4}],
        "tasks": [
            {"name": "watch", "kind": "regression", "label": "watch"},
            {"name": "click", "kind": "binary", "label": "click"},
            {"name": "rare", "kind": "binary", "label": "rare"},
        ],
        "model": {"head": "adatt", "levels": [[16], [8]], "task_experts": 2, "shared_experts": 1, "tower": [8]},
        "optimizer": {  # a rate that falls towards train.samples would make a longer run another one from its start
            "dense": {"learning_rate": 1e-3, "decay": "none"},
            "sparse": {"learning_rate": 0.2},
        },
        "train": {"samples": 1024},
        "log": {"every_samples": 64},
    }
    for name, changes in sections.items():
        values[name] = {**values.get(name, {}), **changes} if isinstance(changes, dict) else changes
    return values


def nothing_to_measure(folder: Path) -> dict[str, Any]:
    """Sections of `config_values` that leave nothing to be measured, so that no label is read before its batch."""
    values = config_values(folder)
    known = {
        "watch": {"label_mean": 0.0, "label_scale": 1.0},
        "click": {"label_mean": 0.5},
        "rare": {"label_mean": 0.1},
    }
    dense = [{**feature, "mean": 0.0, "scale": 1.0} for feature in values["features"]["dense"]]
    return {
        "features": {"dense": dense},
        "tasks": [{**task, "weight": 1.0, **known[task["name"]]} for task in values["tasks"]],
    }


def make_config(folder: Path, **sections: dict[str, Any]) -> Config:
    """The config of `config_values`."""
    return parse_config(config_values(folder, **sections), "test")
