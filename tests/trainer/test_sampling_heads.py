"""Heads that sample what tasks share, from training to the report: all commands see hard choices."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w

from tests.commands import run_command
from tests.trainer.datasets import config_values
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records

SCHEDULE = {"warmup_samples": 64, "halving_samples": 128, "lowest_temperature": 0.5}
HEADS: dict[str, dict[str, Any]] = {
    "adashare": {"levels": [[8], [8]], "block_samples": 128, **SCHEDULE},
    "learning_to_branch": {"levels": [[8], [4]], "experts": 3, **SCHEDULE},
}
SOURCES = {"adashare": {"block 0", "block 1"}, "learning_to_branch": {"node 0", "node 1", "node 2"}}


@pytest.mark.parametrize("head", HEADS)
def test_a_run_is_evaluated_predicted_compared_and_reported(dataset: Path, tmp_path: Path, head: str) -> None:
    models = {"base": {"head": "shared_bottom", "levels": [[8]]}, head: {"head": head, **HEADS[head]}}
    for name, model in models.items():
        values = config_values(dataset, run={"dir": str(tmp_path / name)}, train={"samples": 640})
        values |= {"model": model | {"tower": [8]}, "evaluate": {"at_samples": [320, 640]}}
        (tmp_path / f"{name}.toml").write_text(tomli_w.dumps(values))
        assert adatt(tmp_path, "train", str(tmp_path / f"{name}.toml"))

    run = RunDirectory(str(tmp_path / head))
    for samples in (320, 640):
        for matrix in json.loads(run.fusion_file(samples).read_text())["levels"]:
            assert {weight for row in matrix["weights"] for weight in row} <= {0.0, 1.0}
            assert {*matrix["experts"]} == SOURCES[head]
    log = read_records(run.train_log)
    assert all(record["penalty/sharing"] >= 0 for record in log if head == "adashare")

    # A checkpoint is evaluated as in training, where the temperature had fallen.
    evaluated = [json.loads(line) for line in adatt(tmp_path, "evaluate", run.path, "--json").splitlines()]
    trained = [record for record in read_records(run.evaluations) if record["samples"] == 640]
    by_task = {record["task"]: (record["log_loss"], record["mse"]) for record in trained if record["by"] is None}
    assert {*by_task} == {"watch", "click", "rare"}
    assert {record["task"]: (record["log_loss"], record["mse"]) for record in evaluated} == by_task

    out = tmp_path / "predictions"
    adatt(tmp_path, "predict", run.path, "--data", str(dataset / "test"), "--out", str(out))
    assert pq.read_table(out).num_rows == 1_001
    assert head in adatt(tmp_path, "compare", str(tmp_path / "base"), run.path)
    page = tmp_path / "report.html"
    adatt(tmp_path, "report", str(tmp_path / "base"), run.path, "--out", str(page))
    assert all(name in page.read_text() for name in SOURCES[head])


def adatt(folder: Path, *arguments: Any) -> str:
    code, out, errors = run_command(folder, *map(str, arguments))
    assert code == 0, errors
    return out
