"""The log's windowed metrics against those of torchrec.metrics over the same samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchrec.metrics.calibration import CalibrationMetric
from torchrec.metrics.metrics_config import RecTaskInfo
from torchrec.metrics.mse import MSEMetric
from torchrec.metrics.ne import NEMetric
from torchrec.metrics.rec_metric import RecComputeMode, RecMetric

from data.pipeline.readers import ReadingTimes
from models.losses import loss_sums
from models.ranker import StepOutput
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.checkpoint.state import State
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.logging.train_log import TrainLog
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records

BATCH, BATCHES = 64, 5
"""Rows of a global batch, and batches between two records: a window."""


def _outcome(step: int, is_binary_T: torch.Tensor) -> StepOutput:
    """Predictions that grow worse from step to step; weights, and missing labels, which are 0 and weigh nothing."""
    generator = torch.Generator().manual_seed(step)
    shape = (BATCH, len(is_binary_T))
    logits_BT = torch.randn(shape, generator=generator) * (1 + step)
    clicks_BT = (torch.rand(shape, generator=generator) < logits_BT.sigmoid()).float()
    labels_BT = torch.where(is_binary_T, clicks_BT, logits_BT + torch.randn(shape, generator=generator))
    present_BT = torch.rand(shape, generator=generator) < 0.8
    weights_BT = torch.rand(shape, generator=generator) * present_BT
    loss_T = loss_sums(logits_BT, labels_BT * present_BT, weights_BT, is_binary_T)
    return StepOutput(logits_BT, labels_BT * present_BT, weights_BT, loss_T, torch.arange(BATCH))


def _log_windows(world: World, config: Config) -> None:
    """Two windows of steps, each rank with its own half of every batch."""
    state = State(0, False, 0, world.size, {}, {}, {}, {}, {}, {})
    run = RunDirectory(config.run.dir)
    run.path.mkdir(exist_ok=True)
    log = TrainLog(config, world, run, state, 0, 2 * BATCH * BATCHES)
    is_binary_T = torch.tensor([task.binary for task in config.tasks])
    for step in range(2 * BATCHES):
        whole = _outcome(step, is_binary_T)
        logits_BT, labels_BT, weights_BT, row_ids_B = (
            tensor.chunk(world.size)[world.rank]
            for tensor in (whole.logits_BT, whole.labels_BT, whole.weights_BT, whole.row_ids_B)
        )
        loss_T = loss_sums(logits_BT, labels_BT, weights_BT, is_binary_T)
        log.update(StepOutput(logits_BT, labels_BT, weights_BT, loss_T, row_ids_B))
        if (step + 1) % BATCHES == 0:
            log.write((step + 1) * BATCH, 0.1, ReadingTimes())
    log.close()


def _windowed(form: type[RecMetric], config: Config, number: int) -> dict[str, float]:
    """torchrec's metrics of a task over the last BATCHES batches, by their names."""
    metric = form(
        world_size=1,
        my_rank=0,
        batch_size=BATCH,
        tasks=[RecTaskInfo(name="task")],
        compute_mode=RecComputeMode.UNFUSED_TASKS_COMPUTATION,
        window_size=BATCH * BATCHES,
    )
    is_binary_T = torch.tensor([task.binary for task in config.tasks])
    for step in range(2 * BATCHES):
        found = _outcome(step, is_binary_T)
        predictions_BT = torch.where(is_binary_T, found.logits_BT.double().sigmoid(), found.logits_BT.double())
        metric.update(
            predictions={"task": predictions_BT[:, number]},
            labels={"task": found.labels_BT[:, number].double()},
            weights={"task": found.weights_BT[:, number].double()},
        )
    return {str(name): float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("ranks", [1, 2])
def test_windowed_metrics_equal_those_of_torchrec(dataset: Path, tmp_path: Path, ranks: int) -> None:
    config = make_config(dataset, run={"dir": str(tmp_path / "run")})
    run_on_ranks(ranks, _log_windows, config)
    first, second = read_records(RunDirectory(config.run.dir).train_log)
    forms: dict[str, list[type[Any]]] = {"binary": [NEMetric, CalibrationMetric], "regression": [MSEMetric]}
    for number, task in enumerate(config.tasks):
        found = {name: value for form in forms[task.kind] for name, value in _windowed(form, config, number).items()}
        for key in ("ne", "calibration") if task.binary else ("mse",):
            expected = next(value for name, value in found.items() if name.endswith(f"window_{key}"))
            assert second[f"{key}/{task.name}"] == pytest.approx(expected, rel=1e-5)
            assert first[f"{key}/{task.name}"] != pytest.approx(expected, rel=1e-2)


def _log_weighted(world: World, config: Config, factor: float) -> None:
    """A window whose rows weigh `factor` times what they do in `_log_windows`."""
    log = TrainLog(config, world, _directory(config), State(0, False, 0, 1, {}, {}, {}, {}, {}, {}), 0, BATCH)
    output = _outcome(1, torch.tensor([task.binary for task in config.tasks]))
    log.update(output._replace(weights_BT=factor * output.weights_BT, loss_T=factor * output.loss_T))
    log.write(BATCH, 0.1, ReadingTimes())
    log.close()


def _directory(config: Config) -> RunDirectory:
    run = RunDirectory(config.run.dir)
    run.path.mkdir(exist_ok=True)
    return run


def test_a_constant_factor_in_the_weights_changes_no_figure(dataset: Path, tmp_path: Path) -> None:
    """As with survey weights, which count how many people a row stands for."""
    config = make_config(dataset, run={"dir": str(tmp_path / "run")}, tasks=_weighted_tasks())
    for factor in (1.0, 1_700.0):
        run_on_ranks(1, _log_weighted, config, factor)
    plain, heavy = read_records(RunDirectory(config.run.dir).train_log)
    losses = [key for key in plain if key.startswith(("loss", "ne/", "mse/", "calibration/", "label_mean/"))]
    assert len(losses) == 8
    assert [heavy[key] for key in losses] == pytest.approx([plain[key] for key in losses], rel=1e-6)
    assert plain["loss"] == pytest.approx(plain["loss/watch"] + 5 * plain["loss/click"])


def _weighted_tasks() -> list[dict[str, Any]]:
    click = {"name": "click", "kind": "binary", "label": "click", "weight": 5}
    return [{"name": "watch", "kind": "regression", "label": "watch"}, click]


def _log_reading(world: World, config: Config) -> None:
    log = TrainLog(config, world, _directory(config), State(0, False, 0, 1, {}, {}, {}, {}, {}, {}), 0, 4 * BATCH)
    output = _outcome(1, torch.tensor([task.binary for task in config.tasks]))
    times = ReadingTimes()
    for share in (1, 3):
        log.update(output)
        times.read += 2.0 * share
        times.decode += 4.0 * share
        times.gather += 6.0 * share
        times.room += 8.0 * share
        log.write(share * BATCH, 0.1, times)
    log.close()


def test_what_reading_took_is_given_for_each_batch_of_the_record(dataset: Path, tmp_path: Path) -> None:
    config = make_config(dataset, run={"dir": str(tmp_path / "run")}, data={"global_batch_size": BATCH // 2})
    run_on_ranks(1, _log_reading, config)
    first, second = read_records(RunDirectory(config.run.dir).train_log)
    for record, seconds in ((first, [1.0, 2.0, 3.0, 4.0]), (second, [1.5, 3.0, 4.5, 6.0])):  # of 2 and of 4 batches
        assert [record[f"batch_{part}_seconds"] for part in ("read", "decode", "gather", "room")] == seconds
        assert record["peak_bytes"] > 10**8
