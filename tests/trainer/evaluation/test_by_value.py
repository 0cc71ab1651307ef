"""Metrics for every value of a column: values in any order and number, on the ranks that have them and others."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.discovery.dataset import read_manifest
from data.errors import DataError
from models.ranker import StepOutput
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.evaluation.by_value import BINS, MetricsByValue
from trainer.evaluation.metrics import Metrics, MetricSums
from trainer.train import train


def test_values_that_are_nan_or_null_are_one_group(tmp_path: Path) -> None:
    table = pa.table({"tab": pa.array([1.0, float("nan"), None, 2.0, float("nan"), 1.0])})
    pq.write_table(table, tmp_path / "part.parquet")
    rows = torch.ones(6, 1)
    found = run_on_ranks(1, _by_tab, str(tmp_path), [StepOutput(rows, rows, rows, rows[0], torch.arange(6))])[0]
    assert {value: metrics[0].examples for value, metrics in found.items()} == {1.0: 2, None: 3, 2.0: 1}


def _by_tab(world: World, data: str, batches: list[StepOutput]) -> dict[Any, list[Metrics]]:
    by = MetricsByValue("tab", read_manifest(data, None), torch.tensor([True]), 1)
    for batch in batches:
        by.update(batch)
    return by.compute(world)


def test_more_values_than_there_was_room_for(tmp_path: Path) -> None:
    """Values in slots that are made while rows come in, padding in between, against a sum for each value."""
    generator = torch.Generator().manual_seed(2)
    tabs = torch.randint(0, 100, (600,), generator=generator)
    pq.write_table(pa.table({"tab": pa.array(tabs.numpy())}), tmp_path / "part.parquet", row_group_size=50)
    batches = []
    logits_B1 = torch.randn(600, 1, generator=generator)
    labels_B1 = (torch.rand(600, 1, generator=generator) < 0.4).float()
    for first in range(0, 600, 60):
        rows = torch.arange(first, first + 60)
        numbers = torch.cat([rows, torch.full((4,), -1)])
        batch = [torch.cat([tensor[rows], torch.ones(4, 1)]) for tensor in (logits_B1, labels_B1, torch.ones(600, 1))]
        batches.append(StepOutput(*batch, torch.zeros(1), numbers))
    found = run_on_ranks(1, _by_tab, str(tmp_path), batches)[0]
    assert list(found) == sorted(set(tabs.tolist()))
    for value, (metrics,) in found.items():
        sums = MetricSums(torch.tensor([True]), bins=BINS)
        chosen = tabs == value
        sums.add(logits_B1[chosen], labels_B1[chosen], torch.ones(int(chosen.sum()), 1))
        (expected,) = sums.compute()
        assert metrics.examples == expected.examples == int(chosen.sum())
        for key in ("log_loss", "auc", "ne", "calibration"):
            one, other = getattr(metrics, key), getattr(expected, key)
            assert one == (None if other is None else pytest.approx(other, rel=1e-12))


def test_columns_that_cannot_be_grouped_by_are_refused(dataset: Path, tmp_path: Path) -> None:
    config = make_config(dataset, run={"dir": str(tmp_path / "run")}, evaluate={"by": ["tab"]})
    assert "no column 'tab'" in run_on_ranks(1, _refusal, config)[0]


def _refusal(world: World, config: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        train(config, world)
    return str(caught.value)


def test_too_many_values_are_refused_before_training(dataset: Path, tmp_path: Path) -> None:
    config = make_config(
        dataset, run={"dir": str(tmp_path / "run")}, data={"test": str(tmp_path / "test")}, evaluate={"by": ["row"]}
    )
    table = pq.read_table(dataset / "train")
    (tmp_path / "test").mkdir()
    pq.write_table(table.append_column("row", pa.array(range(len(table)))), tmp_path / "test" / "part.parquet")
    assert "column 'row'" in run_on_ranks(1, _too_many, config)[0]
    assert not (tmp_path / "run").exists()


def _too_many(world: World, config: Config) -> str:
    with pytest.raises(DataError, match="has more than 1000 values") as caught:
        train(config, world)
    return str(caught.value)


def test_a_column_is_named_once(dataset: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.by names column 'user' twice"):
        make_config(dataset, evaluate={"by": ["user", "user"]})
