"""A run finds its vocabularies once, and keeps them."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.discovery.dataset import read_manifest
from data.profile.dataset import profile_dataset
from data.profile.stored import store_counts
from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values
from tests.trainer.training import evaluation_records, train_or_explain
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.run.directory import RunDirectory

VOCABULARY = {"vocabulary": "auto"}


def config_of(folder: Path, vocabulary: dict[str, Any], **sections: Any) -> Config:
    values = config_values(folder, train={"samples": 256}, **sections)
    values["features"]["sparse"] = [
        {"column": "user", "table": "user"},
        {"column": "video", "table": "video", **vocabulary},
    ]
    return parse_config(values, "test")


def explained(world_size: int, config: Config) -> str | None:
    return run_on_ranks(world_size, train_or_explain, config)[0]


@pytest.mark.parametrize(("world_size", "min_count"), [(1, 280), (2, 1)])
def test_the_most_frequent_ids_of_all_ranks(dataset: Path, tmp_path: Path, world_size: int, min_count: int) -> None:
    """Those that are frequent enough, or as many as there are rows."""
    config = config_of(
        dataset,
        {**VOCABULARY, "min_count": min_count, "unknown_rows": 2},
        run={"dir": str(tmp_path / "run")},
        tables=[{"name": "user", "rows": 50, "dim": 8}, {"name": "video", "rows": 14, "dim": 4}],
    )
    assert explained(world_size, config) is None
    run = RunDirectory(tmp_path / "run")
    values = pq.read_table(run.vocabulary_file("video"))["value"].to_pylist()

    counts = Counter(pq.read_table(dataset / "train")["video"].to_pylist())
    expected = sorted(counts, key=lambda value: (-counts[value], value))
    assert values == [value for value in expected if counts[value] >= min_count][:12]

    train = config.train.model_copy(update={"samples": 512})
    before = run.vocabulary_file("video").read_bytes()
    assert explained(1, config.model_copy(update={"train": train})) is None, "it is kept, and goes on"
    assert run.vocabulary_file("video").read_bytes() == before
    assert len(run_on_ranks(2, _evaluated, str(run.path))[0]) == len(config.tasks)


@pytest.mark.parametrize("world_size", [1, 2])
def test_stored_counts_are_read(dataset: Path, tmp_path: Path, world_size: int) -> None:
    """Those of the test set lie where those of the training data should, and are taken for them."""
    shutil.copytree(dataset, tmp_path / "data")
    train, test = (read_manifest(str(tmp_path / "data" / use), cache=None) for use in ("train", "test"))
    store_counts(train, profile_dataset(test, ["video"], progress=lambda _: None))
    config = config_of(tmp_path / "data", VOCABULARY, run={"dir": str(tmp_path / "run")})
    assert explained(world_size, config) is None
    counts = Counter(pq.read_table(dataset / "test")["video"].to_pylist())
    values = pq.read_table(RunDirectory(tmp_path / "run").vocabulary_file("video"))["value"].to_pylist()
    assert values == sorted(counts, key=lambda value: (-counts[value], value))


def _evaluated(world: World, run: str) -> list[dict[str, Any]]:
    return evaluation_records(run, "latest", None, world)


def write_values(path: Path, values: list[Any]) -> str:
    pq.write_table(pa.table({"value": values}), path)
    return str(path)


def test_a_file_that_changes_does_not_change_the_run(dataset: Path, tmp_path: Path) -> None:
    uri = write_values(tmp_path / "v.parquet", ["v1", "v2"])
    config = config_of(dataset, {"vocabulary": uri}, run={"dir": str(tmp_path / "run")})
    assert explained(1, config) is None
    write_values(tmp_path / "v.parquet", ["v3"])
    assert explained(1, config.model_copy(update={"train": config.train.model_copy(update={"samples": 512})})) is None

    kept = tmp_path / "run" / "vocabularies" / "video.parquet"
    assert pq.read_table(kept)["value"].to_pylist() == ["v1", "v2"]
    resolved = RunDirectory(tmp_path / "run").read_config()
    elsewhere = resolved.model_copy(update={"run": config.run.model_copy(update={"dir": str(tmp_path / "new")})})
    assert "vocabulary_digest is that of another vocabulary" in str(explained(1, elsewhere))

    write_values(kept, ["v2", "v1"])
    assert f"{kept}: not the vocabulary that the run was trained with" in str(explained(1, config))
    kept.unlink()
    assert f"vocabulary {kept}: not a Parquet file that can be read" in str(explained(1, config))


BAD: list[tuple[list[Any] | None, dict[str, Any], str]] = [
    (list(range(3)), {}, "column 'video' is string, but the vocabulary of table 'video' is of int64: no id"),
    (
        [f"v{number}" for number in range(90)],
        {},
        "'video' has 64 rows, but its vocabulary needs 91: 90 ids and unknown",
    ),
    (["v1"], {"unknown_rows": 0}, "of table 'video' has not; add it, or set unknown_rows"),
    (None, {"min_count": 1000}, "vocabulary of table 'video': none of its 30 ids occurs 1000 times; lower min_count"),
]


@pytest.mark.parametrize(("values", "keys", "message"), BAD)
@pytest.mark.parametrize("world_size", [1, 2])
def test_bad_vocabularies(
    dataset: Path, tmp_path: Path, values: list[Any] | None, keys: dict[str, Any], message: str, world_size: int
) -> None:
    uri = "auto" if values is None else write_values(tmp_path / "v.parquet", values)
    config = config_of(dataset, {"vocabulary": uri, **keys}, run={"dir": str(tmp_path / "run")})
    errors = run_on_ranks(world_size, train_or_explain, config)
    assert [message in str(error) for error in errors] == [True] * world_size
    assert not (tmp_path / "run").exists()


def _add(world: World) -> list[int]:
    return world.joined([world.rank], list.extend)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_what_all_ranks_have_is_joined_on_rank_zero(world_size: int) -> None:
    assert sorted(run_on_ranks(world_size, _add)[0]) == list(range(world_size))
