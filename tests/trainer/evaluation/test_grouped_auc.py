"""Grouped AUC against scikit-learn group by group, on 1, 2 and 4 ranks; and as part of a run's evaluations."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from data.discovery.dataset import read_manifest
from models.ranker import StepOutput
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.training import evaluation_records, train_or_explain
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.evaluation.accumulator import TaskValues
from trainer.evaluation.grouped_auc import GroupedAuc, _sums, _values_of
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

IS_BINARY_T = torch.tensor([False, True, True])
BATCH = 64


class Rows(NamedTuple):
    """Of a regression and two binary tasks."""

    logits_NT: torch.Tensor
    labels_NT: torch.Tensor
    weights_NT: torch.Tensor


def _draw_rows(rows: int, seed: int) -> Rows:
    """Many logits are tied; every fifth weight is 0, as where a label is missing."""
    generator = torch.Generator().manual_seed(seed)
    logits_NT = (torch.randn(rows, 3, generator=generator) * 4).round() / 4
    labels_NT = (torch.rand(rows, 3, generator=generator) < logits_NT.sigmoid()).float()
    weights_NT = torch.rand(rows, 3, generator=generator) + 0.1
    weights_NT *= torch.rand(rows, 3, generator=generator) < 0.8
    return Rows(logits_NT, labels_NT, weights_NT)


def _gauc(groups: list[Any], rows: Rows, task: int) -> TaskValues:
    """A plain loop over the groups, with scikit-learn's AUC."""
    logits, labels, weights = (tensor[:, task].double().numpy() for tensor in rows)
    area = weight = 0.0

    for group in {group for group in groups if group is not None and group == group}:
        chosen = np.array([entry == group for entry in groups]) & (weights > 0)
        if len(set(labels[chosen])) == 2:
            area += roc_auc_score(labels[chosen], logits[chosen], sample_weight=weights[chosen]) * weights[chosen].sum()
            weight += weights[chosen].sum()

    return {"gauc": area / weight if weight else None, "gauc_share": weight / weights.sum()}


def _steps(rank: int, size: int, rows: Rows) -> list[StepOutput]:
    """Every rank's share of the batches; the last one has padding, as where ranks have unequally many rows."""
    steps = []
    for start in range(rank * BATCH, len(rows.logits_NT), size * BATCH):
        row_ids_B = torch.arange(start, min(start + BATCH, len(rows.logits_NT)))
        tensors = [tensor[row_ids_B] for tensor in rows]
        padding = torch.zeros(7, 3)
        padded = [torch.cat([tensor, padding]) for tensor in tensors]
        steps.append(StepOutput(*padded, torch.zeros(3), torch.cat([row_ids_B, torch.full((7,), -1)])))
    return steps


def _compute(world: World, data: str, rows: Rows) -> list[TaskValues]:
    steps = _steps(world.rank, world.size, rows)
    num_rows = (BATCH + 7) * len(steps)
    metric = GroupedAuc("group", read_manifest(data, None), IS_BINARY_T, 1, num_rows)
    for step in steps:
        metric.update(step)
    return metric.compute(world)


def _write(folder: Path, groups: pa.Array) -> str:
    pq.write_table(pa.table({"group": groups}), folder / "part.parquet", row_group_size=100)
    return str(folder)


def _draw_groups(kind: str, rows: int) -> list[Any]:
    """Groups of one row and of hundreds; every tenth row has none."""
    random = np.random.default_rng(5)
    numbers = (random.pareto(1, rows) * 20).astype(int) - 30
    has_none = random.random(rows) < 0.1
    values: list[Any] = [f"user {number}" if kind == "text" else number.item() for number in numbers]
    return [None if none else value for value, none in zip(values, has_none, strict=True)]


@pytest.mark.parametrize("kind", ["integer", "text", "float"])
def test_against_scikit_learn_on_any_ranks(kind: str, tmp_path: Path) -> None:
    rows = _draw_rows(1_500, 3)
    groups = _draw_groups(kind, 1_500)
    types = {"integer": pa.int32(), "text": pa.string(), "float": pa.float64()}
    data = _write(tmp_path, pa.array(groups, types[kind]))

    expected = [{}, _gauc(groups, rows, 1), _gauc(groups, rows, 2)]
    assert all(0.5 < (values["gauc_share"] or 0) < 0.9 for values in expected[1:])
    for size in (1, 2, 4):
        for found in run_on_ranks(size, _compute, data, rows):
            assert found == [pytest.approx(values, rel=1e-12) for values in expected]


def test_more_ranks_than_groups(tmp_path: Path) -> None:
    """Of four ranks, three get no row, and one has none to send."""
    rows = _draw_rows(3 * BATCH, 1)
    data = _write(tmp_path, pa.array([True] * 3 * BATCH))
    expected = _gauc([True] * 3 * BATCH, rows, 1)
    assert expected["gauc_share"] == 1
    assert [found[1] for found in run_on_ranks(4, _compute, data, rows)] == [pytest.approx(expected, rel=1e-12)] * 4


def test_nan_is_no_group(tmp_path: Path) -> None:
    rows = _draw_rows(300, 2)
    groups = [math.nan if row % 3 == 0 else float(row % 7) for row in range(300)]
    found = run_on_ranks(1, _compute, _write(tmp_path, pa.array(groups)), rows)[0]
    assert found[1] == pytest.approx(_gauc(groups, rows, 1), rel=1e-12)


def test_where_it_is_not_defined(tmp_path: Path) -> None:
    """One label in every group; no row that counts; predictions that are not finite."""
    logits_NT, labels_NT, weights_NT = _draw_rows(100, 4)
    groups = labels_NT[:, 1].int().tolist()
    data = _write(tmp_path, pa.array(groups))
    nothing = {"gauc": None, "gauc_share": None}

    none_counts_NT = weights_NT * torch.tensor([1, 1, 0])
    found = run_on_ranks(2, _compute, data, Rows(logits_NT, labels_NT, none_counts_NT))
    assert found == [[{}, {"gauc": None, "gauc_share": 0.0}, nothing]] * 2

    logits_NT[7, 1] = math.nan
    weights_NT[7, 1] = 1
    assert run_on_ranks(2, _compute, data, Rows(logits_NT, labels_NT, weights_NT))[0][1] == nothing
    weights_NT[7, 1] = 0
    assert run_on_ranks(2, _compute, data, Rows(logits_NT, labels_NT, weights_NT))[0][1]["gauc_share"] == 0


ROWS = st.tuples(st.integers(-3, 3), st.integers(-2, 2), st.sampled_from([-3.0, -0.5, 0.5, 1.0]))


@given(st.lists(ROWS, min_size=1, max_size=40))
def test_is_the_share_of_pairs_that_are_in_order(rows: list[tuple[int, int, float]]) -> None:
    """Rows are (group, logit, weight), with weights of negatives below 0."""
    area = weight = 0.0
    for group in {code for code, _, _ in rows}:
        of_group = [(logit, entry) for code, logit, entry in rows if code == group]
        won = pairs = 0.0
        for logit, positive in of_group:
            for other, negative in of_group:
                if positive > 0 > negative:
                    pairs -= positive * negative
                    won -= positive * negative * ((logit > other) + (logit == other) / 2)
        if pairs:
            weight_of_group = sum(abs(entry) for _, entry in of_group)
            area += weight_of_group * won / pairs
            weight += weight_of_group

    codes, logits, weights = (np.array(column) for column in zip(*rows, strict=True))
    found = _sums(codes, logits.astype(np.float32), weights.astype(np.float32))
    assert found.tolist() == pytest.approx([area, weight, np.abs(weights).sum()], rel=1e-12)
    assert _values_of(*found)["gauc"] == (pytest.approx(area / weight, rel=1e-12) if weight else None)


def _train(world: World, config: Config) -> None:
    train(config, world)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("grouped") / "run"
    config = make_config(
        dataset,
        run={"dir": str(folder)},
        train={"samples": 640},
        evaluate={"group_by": "user"},
        data={"weight": "weight"},
    )
    run_on_ranks(2, _train, config)
    return RunDirectory(folder)


def _evaluate(world: World, run: str) -> list[dict[str, Any]]:
    return evaluation_records(run, "latest", None, world)


@pytest.mark.parametrize("size", [1, 4])
def test_a_run_has_it_on_any_ranks(trained: RunDirectory, size: int) -> None:
    records = {record["task"]: record for record in read_records(trained.evaluations)}
    found = {record["task"]: record for record in run_on_ranks(size, _evaluate, str(trained.path))[0]}
    assert records["watch"]["gauc"] is None
    for task in ("click", "rare"):
        assert 0.4 < records[task]["gauc"] < 0.9
        assert 0.4 < records[task]["gauc_share"] <= 1
        assert found[task]["gauc"] == pytest.approx(records[task]["gauc"], rel=1e-6)
        assert found[task]["gauc_share"] == pytest.approx(records[task]["gauc_share"], rel=1e-12)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("userid", "evaluate.group_by: no column 'userid' in "),
        ("recent", "evaluate.group_by: column 'recent' is list<"),
    ],
)
def test_a_column_that_has_no_groups_is_refused(column: str, told: str, dataset: Path, tmp_path: Path) -> None:
    config = make_config(dataset, run={"dir": str(tmp_path / "run")}, evaluate={"group_by": column})
    (error,) = run_on_ranks(1, train_or_explain, config)
    assert error.startswith(told)
    assert "\n" not in error


def test_the_groups_may_change_between_starts(trained: RunDirectory, dataset: Path) -> None:
    config = make_config(
        dataset,
        run={"dir": str(trained.path)},
        train={"samples": 640},
        evaluate={"group_by": "video"},
        data={"weight": "weight"},
    )
    trained.check(config)
