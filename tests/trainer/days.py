"""A log with a folder for each day, which appears day by day."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.trainer.datasets import make_config
from trainer.config.run_config import Config

DAYS = {24: 203, 25: 198, 26: 310, 27: 7, 28: 240}
"""Rows of each."""
TASKS = [{"name": "click", "kind": "binary", "label": "click", "label_mean": 0.5, "weight": 1.0}]


def write_day(folder: Path, day: int, rows: int) -> None:
    random = np.random.default_rng(day)
    user = random.integers(0, 50, rows)
    click = random.random(rows) < 1 / (1 + np.exp(2 - user % 5))
    table = pa.table({"user": user, "age": random.normal(size=rows), "click": pa.array(click, pa.int8())})
    path = folder / f"dt=2022-04-{day}"
    path.mkdir(parents=True)
    pq.write_table(table, path / "part-0.parquet", row_group_size=60)
    (path / "_SUCCESS").touch()


def config_of(days: Path, log: Path, run: Path, **sections: Any) -> Config:
    """With nothing left to be measured: what the first day says of the data is not what all of them say."""
    data = {"train": str(log), "test": str(days / "test"), "order": "chronological", "complete": "_SUCCESS"}
    return make_config(
        days,
        run={"dir": str(run), "trace": True},
        data={**data, **sections.pop("data", {})},
        features={
            "sparse": [{"column": "user", "table": "user"}],
            "dense": [{"column": "age", "transform": "none", "mean": 0.0, "scale": 1.0}],
        },
        tables=[{"name": "user", "rows": 50, "dim": 8}],
        tasks=TASKS,
        **{"train": {"samples": "all"}, **sections},
    )


def add(days: Path, log: Path, day: int) -> None:
    shutil.copytree(days / "all" / f"dt=2022-04-{day}", log / f"dt=2022-04-{day}")
