"""A log with a feature of every kind, and a config that reads them all."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.config.load import parse_config
from trainer.config.run_config import Config

WORDS = ["", "home", "für dich", "推荐", "🎬🍿", "x" * 40, "y" * 200, "z" * 300, "tab\ttab", "NaN"]
SPARSE: list[dict[str, Any]] = [
    {"column": "user", "table": "users", "hash": True, "seed": 5, "hashes": 2},
    {"column": "user", "name": "user as it is", "table": "plain"},
    {"column": "word", "table": "words", "vocabulary": "auto", "unknown_rows": 3},
    {"column": "tags", "table": "tags", "hash": True, "last": 3},
    {"column": "tags", "name": "first tags", "table": "tags", "hash": True, "first": 1, "pooling": "mean"},
    {"column": "scores.key", "weights": "scores.value", "name": "scores", "table": "users", "hash": True},
    {"column": "geo.city", "table": "words", "name": "city", "vocabulary": "auto", "unknown_rows": 3},
    {"cross": ["user", "word"], "table": "users", "name": "user and word"},
    {"column": "price", "table": "prices", "boundaries": [0.1, 0.7, 2.5]},
    {"column": "at", "table": "times", "parts": ["hour", "day_of_week", "month"], "timezone": "Asia/Shanghai"},
    {"column": "bytes", "table": "tags", "hash": True},
    {"column": "later", "table": "plain", "missing": "null"},
]
DENSE: list[dict[str, Any]] = [
    {"column": "age", "transform": "log1p"},
    {"column": "price", "fill": 0.3, "clip": [0.0, 2.0], "transform": "sqrt"},
    {"column": "vector", "size": 3, "mean": 0.5, "scale": 2.0},
    {"column": "at", "since": "born"},
    {"column": "count", "mean": 5e17, "scale": 3e17},
]


def write_log(folder: Path, rows: int, seed: int) -> None:
    """With nulls, empty lists, NaN, infinite numbers, Unicode, and ids that only this seed has."""
    random = np.random.Generator(np.random.Philox(seed))

    def column(values: list[Any], kind: pa.DataType, nulls: float = 0.1) -> pa.Array:
        return pa.array(values, kind, mask=random.random(rows) < nulls)

    def lists(draw: Any) -> list[list[Any]]:
        return [[draw() for _ in range(length)] for length in random.integers(0, 5, rows)]

    user = random.integers(0, 40, rows)
    words = [*WORDS, f"only {seed}"]
    pick = lambda: None if random.random() < 0.1 else words[random.integers(len(words))]  # noqa: E731
    chance = 1 / (1 + np.exp(-np.random.Generator(np.random.Philox(0)).normal(size=40)[user]))
    times = 1_650_000_000_000_000_000 + random.integers(-(10**18), 10**17, rows)
    price = np.where(random.random(rows) < 0.3, 0.7, random.exponential(1, rows))
    price[random.random(rows) < 0.05] = np.nan
    price[random.random(rows) < 0.05] = np.inf
    table = pa.table(
        {
            "user": column(user.tolist(), pa.int32()),
            "word": column([pick() for _ in range(rows)], pa.dictionary(pa.int32(), pa.string())),
            "tags": column(lists(pick), pa.list_(pa.string())),
            "scores": column(
                [
                    [(int(key), float(random.normal())) for key in random.permutation(9)[:length]]
                    for length in random.integers(0, 4, rows)
                ],
                pa.map_(pa.int64(), pa.float32()),
            ),
            "geo": column([{"city": pick()} for _ in range(rows)], pa.struct([("city", pa.large_string())])),
            "price": column(price.tolist(), pa.float32()),
            "at": column(times.tolist(), pa.timestamp("ns", "Europe/Berlin")),
            "born": column((times // 10**9 - random.integers(0, 10**8, rows)).tolist(), pa.timestamp("s")),
            "bytes": column([random.bytes(6) for _ in range(rows)], pa.binary()),
            "age": column(random.exponential(30, rows).tolist(), pa.float64()),
            "vector": column(random.normal(size=(rows, 3)).tolist(), pa.list_(pa.float16(), 3)),
            "count": column(random.integers(0, 1 << 60, rows).tolist(), pa.int64()),
            "click": pa.array(random.random(rows) < chance, pa.int8()),
            "watch": pa.array(random.normal(size=rows), pa.float32()),
        }
    )
    folder.mkdir(parents=True)
    half = rows // 2
    pq.write_table(table.slice(0, half), folder / "a.parquet", row_group_size=97)
    with_later = table.append_column("later", pa.array(random.integers(0, 40, rows)))
    pq.write_table(with_later.slice(half), folder / "b.parquet", row_group_size=97)


def config_of(folder: Path, **sections: Any) -> Config:
    """Trains on `folder`/train with a checkpoint at 256 samples and at 512."""
    dims = {"users": 32, "plain": 40, "words": 20, "tags": 16, "prices": 4, "times": 60}
    values: dict[str, Any] = {
        "run": {"dir": str(folder / "run")},
        "data": {"train": str(folder / "train"), "test": str(folder / "test"), "global_batch_size": 64, "lanes": 4},
        "features": {"sparse": SPARSE, "dense": DENSE},
        "tables": [{"name": name, "rows": rows, "dim": 8} for name, rows in dims.items()],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click", "negative_rate": 0.5},
            {"name": "watch", "kind": "regression", "label": "watch"},
        ],
        "model": {"head": "adatt", "levels": [[16], [8]], "task_experts": 2, "tower": [8]},
        "optimizer": {"dense": {"decay": "none"}, "sparse": {"learning_rate": 0.1}},
        "train": {"samples": 512},
        "evaluate": {"at_samples": ["256"]},
    }
    for name, changes in sections.items():
        values[name] = {**values.get(name, {}), **changes} if isinstance(changes, dict) else changes
    return parse_config(values, "test")
