"""Bad numbers and bad files in training: judged by all ranks together, before any weight changes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from tests.ranks import run_on_ranks
from tests.trainer.datasets import copy_with_overflows, make_config, nothing_to_measure
from trainer.build_model import ShardedModel
from trainer.checkpoint.storage import list_folders, read_state
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError, RunError
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

BATCH = 64


def _train(world: World, config: Config) -> str | None:
    try:
        train(config, world)
    except RunError as error:
        return str(error)
    return None


def _tensors(config: Config, samples: int) -> dict[str, str]:
    """Digests of all weights and optimizer states in a checkpoint, by file."""
    files = read_state(RunDirectory(config.run.dir).checkpoints / str(samples)).files
    return {name: record.digest for name, record in files.items() if name.endswith(".distcp")}


@pytest.fixture(scope="module")
def poisoned(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared dataset in stored order, with a label in row 5,000 whose squared error overflows."""
    return copy_with_overflows(dataset, tmp_path_factory.mktemp("poisoned") / "data", [1000])


def _poisoned_config(poisoned: Path, folder: Path, **train_options: Any) -> Config:
    return make_config(
        poisoned,
        run={"dir": str(folder)},
        data={"order": "stored", "lanes": 2},  # lane 1 begins at row 4,000: row 5,000 is in its batch 31
        train={"samples": 2560, **train_options},
        checkpoint={"every_samples": BATCH, "keep": 100},
        **nothing_to_measure(poisoned),
    )


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(poisoned: Path, tmp_path: Path) -> None:
    config = _poisoned_config(poisoned, tmp_path / "run")
    messages = run_on_ranks(2, _train, config)
    assert messages[0] == messages[1]
    assert "not finite in the batch of samples 1,984 to 2,048" in str(messages[0])
    assert "row group 10 of " in str(messages[0])
    assert "part-1.parquet" in str(messages[0])
    assert "part-0.parquet" in str(messages[0])
    assert list_folders(RunDirectory(config.run.dir).checkpoints)[-1] == "1984"


def test_a_skipped_batch_leaves_every_weight_as_it_was(poisoned: Path, tmp_path: Path) -> None:
    config = _poisoned_config(poisoned, tmp_path / "run", on_non_finite="skip")
    assert run_on_ranks(2, _train, config) == [None, None]
    assert _tensors(config, 1984) == _tensors(config, 2048)
    assert _tensors(config, 2048) != _tensors(config, 2112)
    events = read_records(RunDirectory(config.run.dir).events)
    assert [record["samples"] for record in events if record["event"] == "skipped_batch"] == [1984]
    losses = [record["loss"] for record in read_records(RunDirectory(config.run.dir).train_log)]
    assert np.isfinite([loss for loss in losses if loss is not None]).all()


def test_too_many_skipped_batches_stop_the_run(poisoned: Path, tmp_path: Path) -> None:
    config = _poisoned_config(poisoned, tmp_path / "run", on_non_finite="skip", non_finite_batches=0)
    assert "more than train.non_finite_batches = 0" in str(run_on_ranks(2, _train, config)[1])


@pytest.mark.parametrize("parameter", range(0, 12, 4))
def test_a_gradient_that_is_not_finite_on_one_rank_changes_nothing_on_any(
    dataset: Path, tmp_path: Path, parameter: int
) -> None:
    config = make_config(
        dataset,
        run={"dir": str(tmp_path / "run")},
        train={"samples": 512, "on_non_finite": "skip"},
        checkpoint={"every_samples": BATCH, "keep": 100},
    )
    assert run_on_ranks(2, _train_with_a_bad_gradient, config, parameter) == [None, None]
    assert _tensors(config, 256) == _tensors(config, 320)
    assert _tensors(config, 320) != _tensors(config, 384)


def _train_with_a_bad_gradient(world: World, config: Config, parameter: int) -> str | None:
    """In the fifth step, one parameter of the head gets a gradient of NaN on rank 1."""
    from trainer import open_run as start

    build: Callable[..., ShardedModel] = start.build_sharded_model

    def build_with_hook(*arguments: Any) -> ShardedModel:
        sharded = build(*arguments)
        steps = iter(range(1000))
        if world.rank == 1:
            chosen = list(sharded.model.module.head.parameters())[parameter]  # type: ignore[union-attr, operator]
            chosen.register_hook(lambda gradient: gradient * float("nan") if next(steps) == 4 else None)
        return sharded

    start.build_sharded_model = build_with_hook
    return _train(world, config)


def test_skipping_is_refused_where_a_gradient_of_zero_moves_the_tables() -> None:
    values = {"train": {"samples": 64, "on_non_finite": "skip"}, "optimizer": {"sparse": {"weight_decay": 0.1}}}
    with pytest.raises(ConfigError, match="weight_decay"):
        make_config(Path("nowhere"), **values)
    assert parse_config


def _corrupt(folder: Path) -> None:
    """Overwrites the middle of one file of the training data; its footer stays."""
    path = folder / "train" / "part-1.parquet"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)


def test_unreadable_rows_are_left_out_and_accounted_for(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    _corrupt(tmp_path / "data")
    config = make_config(
        tmp_path / "data",
        run={"dir": str(tmp_path / "run"), "trace": True},
        data={"on_bad_file": "skip"},
        train={"samples": 8000},
    )
    assert run_on_ranks(2, _train, config) == [None, None]
    skipped = [event for event in read_records(tmp_path / "run" / "events.jsonl") if event["event"] == "skipped_rows"]
    assert skipped
    assert {event["file"] for event in skipped} == {"part-1.parquet"}


def test_too_many_unreadable_row_groups_stop_the_run(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    _corrupt(tmp_path / "data")
    data = {"on_bad_file": "skip", "bad_row_groups": 0}
    config = make_config(tmp_path / "data", run={"dir": str(tmp_path / "run")}, data=data, train={"samples": 8000})
    messages = run_on_ranks(2, _train, config)
    assert "more than data.bad_row_groups = 0" in str(messages[0])
    assert messages[0] == messages[1]


def _train_until_told(world: World, config: Config) -> str:
    with pytest.raises(DataError) as told:
        train(config, world)
    return str(told.value)


def test_a_wrong_label_far_into_the_data_of_one_rank_is_told_by_all(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    path = tmp_path / "data" / "train" / "part-1.parquet"
    table = pq.read_table(path)
    click = table["click"].to_numpy().copy()
    click[3000] = 7
    index = table.schema.get_field_index("click")
    pq.write_table(table.set_column(index, "click", pa.array(click, pa.int8())), path, row_group_size=97)
    config = make_config(
        tmp_path / "data",
        run={"dir": str(tmp_path / "run")},
        data={"order": "stored"},
        train={"samples": 8_000},
        checkpoint={"every_samples": 640},
        **nothing_to_measure(dataset),
    )
    first, second = run_on_ranks(2, _train_until_told, config)
    assert first == second
    assert "part-1.parquet: label 'click' is 7" in first
    assert list_folders(tmp_path / "run" / "checkpoints")  # what was whole before stays
