"""Verdicts that are read a step late, as on GPUs: here on CPUs, where training must come out as with those at once."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from data.errors import ExpectedError
from models.ranker import StepOutput
from models.tasks import TaskConfig
from tests.ranks import run_on_ranks
from tests.trainer.datasets import copy_with_overflows, make_config, nothing_to_measure
from trainer.batches import TrainBatches
from trainer.checkpoint.storage import list_folders, read_state
from trainer.config.run_config import Config
from trainer.distributed.preemption import Stopped
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.logging.window import TrainingWindow
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.step.device_verdicts import DeviceVerdicts
from trainer.train import train

BATCH = 64


class AheadWorld(World):
    """Ranks on CPUs whose host behaves as with GPUs."""

    @property
    def runs_ahead(self) -> bool:
        return True


def _ahead(world: World) -> World:
    return AheadWorld(*(getattr(world, field.name) for field in fields(World)))


def _train(world: World, config: Config, late: bool) -> str | None:
    try:
        train(config, _ahead(world) if late else world)
    except (ExpectedError, RunError, Stopped) as ended:
        return str(ended) or type(ended).__name__
    return None


def _tensors(config: Config, samples: int) -> dict[str, str]:
    files = read_state(RunDirectory(config.run.dir).checkpoints / str(samples)).files
    return {name: record.digest for name, record in files.items() if name.endswith(".distcp")}


def _told(config: Config, name: str) -> list[dict[str, Any]]:
    """Records of a run, without what time makes different."""
    left_out = ("seconds", "time", "bytes", "per_second", "fraction")
    records = read_records(Path(config.run.dir) / name)
    return [{key: value for key, value in record.items() if not key.endswith(left_out)} for record in records]


def _config(data: Path, run: Path, **sections: Any) -> Config:
    """All 8,000 rows in stored order, a record and a checkpoint every 10 batches: most steps are read late."""
    values: dict[str, Any] = {
        "run": {"dir": str(run)},
        "data": {"order": "stored", "lanes": 2},
        "train": {"samples": 2560, "on_non_finite": "skip"},
        "log": {"every_samples": 10 * BATCH},
        "checkpoint": {"every_samples": 10 * BATCH, "keep": 100},
        **nothing_to_measure(data),
    }
    return make_config(data, **values | sections)


@pytest.fixture(scope="module")
def poisoned(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squared errors that overflow in rows 5,000 and 5,064 of the stored order: batches 31 and 33 of two lanes."""
    return copy_with_overflows(dataset, tmp_path_factory.mktemp("poisoned") / "data", [1000, 1064])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad", "sgd"])
def test_what_is_read_late_trains_alike(poisoned: Path, tmp_path: Path, optimizer: str) -> None:
    dense = {"name": optimizer, "learning_rate": 1e-3, "decay": "none", "weight_decay": 0.01}
    losses = []
    for late in (False, True):
        run = tmp_path / f"late-{late}"
        config = _config(poisoned, run, optimizer={"dense": dense, "sparse": {"learning_rate": 0.2}})
        assert run_on_ranks(1, _train, config, late) == [None]
        events = [event for event in _told(config, "events.jsonl") if event["event"] == "skipped_batch"]
        assert [event["samples"] for event in events] == [31 * BATCH, 33 * BATCH]
        losses.append([record["loss"] for record in _told(config, "train.jsonl")])

    assert len(losses[0]) == 4
    # The dense optimizer is another kernel of the same algorithm.
    assert losses[1] == pytest.approx(losses[0], rel=2e-6)


def test_a_step_that_is_left_out_late_changes_no_weight_and_no_state(poisoned: Path, tmp_path: Path) -> None:
    config = _config(poisoned, tmp_path / "run", checkpoint={"every_samples": BATCH, "keep": 100})
    assert run_on_ranks(2, _train, config, True) == [None, None]
    assert _tensors(config, 31 * BATCH) == _tensors(config, 32 * BATCH)
    assert _tensors(config, 32 * BATCH) != _tensors(config, 33 * BATCH)
    assert _tensors(config, 33 * BATCH) == _tensors(config, 34 * BATCH)


def test_a_step_that_stops_the_run_is_named_a_step_late(poisoned: Path, tmp_path: Path) -> None:
    config = _config(poisoned, tmp_path / "run", train={"samples": 2560})
    messages = run_on_ranks(2, _train, config, True)
    assert messages[0] == messages[1]
    assert "not finite in the batch of samples 1,984 to 2,048" in str(messages[0])
    assert list_folders(RunDirectory(config.run.dir).checkpoints)[-1] == "1920"


def test_rows_that_cannot_be_read_are_in_no_checkpoint(dataset: Path, tmp_path: Path) -> None:
    """The rank that met them trains on padding until all know: that must be kept nowhere."""
    shutil.copytree(dataset, tmp_path / "data")
    path = tmp_path / "data" / "train" / "part-1.parquet"
    table = pq.read_table(path)
    click = table["click"].to_numpy().copy()
    click[18 * 32] = 7  # in batch 18
    index = table.schema.get_field_index("click")
    pq.write_table(table.set_column(index, "click", pa.array(click)), path, row_group_size=97)

    config = _config(tmp_path / "data", tmp_path / "run", checkpoint={"every_samples": 6 * BATCH, "keep": 100})
    messages = run_on_ranks(2, _train, config, True)
    assert messages[0] == messages[1]
    assert "click" in str(messages[0])
    newest = int(list_folders(RunDirectory(config.run.dir).checkpoints)[-1])
    assert newest <= 18 * BATCH


def test_a_request_to_stop_is_heard_a_step_late_and_nothing_is_lost(dataset: Path, tmp_path: Path) -> None:
    whole = _config(dataset, tmp_path / "whole")
    halted = _config(dataset, tmp_path / "halted")
    assert run_on_ranks(2, _train, whole, True) == [None, None]
    assert run_on_ranks(2, _train_and_stop, halted) == ["Stopped", "Stopped"]
    newest = int(list_folders(RunDirectory(halted.run.dir).checkpoints)[-1])
    assert 0 < newest < 10 * BATCH
    assert run_on_ranks(2, _train, halted, True) == [None, None]
    assert _tensors(halted, 2560) == _tensors(whole, 2560)
    assert _told(halted, "train.jsonl") == _told(whole, "train.jsonl")


def _train_and_stop(world: World, config: Config) -> str | None:
    """Rank 1 gets SIGTERM while it makes its fifth batch."""
    next_batch = TrainBatches.__next__
    batches = iter(range(1000))

    def stopping(self: TrainBatches) -> Any:
        if world.rank == 1 and next(batches) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return next_batch(self)

    TrainBatches.__next__ = stopping  # type: ignore[method-assign]
    return _train(world, config, True)


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible here")
@pytest.mark.usefixtures("alone")
def test_a_step_does_not_wait_for_the_gpu() -> None:
    """Judging, masking, the optimizer and the sums of the log; TorchRec's own exchange of ids does wait."""
    device = torch.device("cuda", 0)
    verdicts = DeviceVerdicts(device)
    weight = torch.ones(4, 4, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([weight], fused=True)
    optimizer.found_inf = verdicts.found_inf  # type: ignore[attr-defined]
    window = TrainingWindow((TaskConfig(name="click", kind="binary", label="click"),), World(0, 1, 0, 1, device))
    logits_BT = torch.zeros(4, 1, device=device)
    output = StepOutput(logits_BT, logits_BT, logits_BT + 1, logits_BT[0], torch.arange(4, device=device))
    weight.grad = torch.full_like(weight, float("nan"))
    gradient_BF = torch.full((4, 4), float("nan"), device=device)
    is_finite = torch.zeros((), dtype=torch.bool, device=device)
    verdicts.judge(gradient_BF, ~is_finite, [0, 0, 0, 0])  # NCCL connects in its first collective
    torch.cuda.synchronize()

    torch.cuda.set_sync_debug_mode("error")
    try:
        masked_BF = verdicts.judge(gradient_BF, is_finite, [1, 0, 0, 3])
        optimizer.step()
        window.add(output)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert not verdicts.read().unsound
    verdict = verdicts.read()
    assert (verdict.unsound, verdict.stop, verdict.save, verdict.skipped) == (True, True, False, 3)
    assert not masked_BF.any()
    assert bool((weight == 1).all())
