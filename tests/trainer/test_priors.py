"""A head that estimates how tasks are related, from training to the report."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tomli_w

from tests.commands import run_command
from tests.trainer.datasets import config_values
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records

TASKS = ["watch", "click", "rare"]


def test_a_run_of_mrn_is_evaluated_predicted_compared_and_reported(dataset: Path, tmp_path: Path) -> None:
    models: dict[str, dict[str, Any]] = {"shared_bottom": {}, "mrn": {"prior": 0.01, "prior_samples": 256}}
    for name, keys in models.items():
        values = config_values(dataset, run={"dir": str(tmp_path / name)}, train={"samples": 640})
        values |= {"model": {"head": name, "levels": [[8]], "tower": [8], **keys}}
        values |= {"evaluate": {"at_samples": [128, 640]}}
        (tmp_path / f"{name}.toml").write_text(tomli_w.dumps(values))
        adatt(tmp_path, "train", str(tmp_path / f"{name}.toml"))

    run = RunDirectory(str(tmp_path / "mrn"))
    for samples in (128, 640):
        hidden, logit = json.loads(run.fusion_file(samples).read_text())["levels"]
        assert hidden["units"] == hidden["experts"] == logit["units"] == TASKS
        for matrix in (hidden["weights"], logit["weights"]):
            apart = [matrix[one][other] for one in range(3) for other in range(3) if one != other]
            assert all(abs(matrix[task][task] - 1) < 1e-6 for task in range(3))
            assert all(0 < abs(weight) < 1 for weight in apart) if samples == 640 else not any(apart)
    assert all(record["penalty/prior"] > 0 for record in read_records(run.train_log))

    # A checkpoint is evaluated as in training: its covariances are those of the samples before.
    evaluated = [json.loads(line) for line in adatt(tmp_path, "evaluate", run.path, "--json").splitlines()]
    trained = [record for record in read_records(run.evaluations) if record["samples"] == 640]
    by_task = {record["task"]: (record["log_loss"], record["mse"]) for record in trained if record["by"] is None}
    assert {record["task"]: (record["log_loss"], record["mse"]) for record in evaluated} == by_task

    out = tmp_path / "predictions"
    adatt(tmp_path, "predict", run.path, "--data", str(dataset / "test"), "--out", str(out))
    assert pq.read_table(out).num_rows == 1_001
    assert "mrn" in adatt(tmp_path, "compare", str(tmp_path / "shared_bottom"), run.path)
    page = tmp_path / "report.html"
    adatt(tmp_path, "report", str(tmp_path / "shared_bottom"), run.path, "--out", str(page))
    assert "mrn" in page.read_text()


def adatt(folder: Path, *arguments: Any) -> str:
    code, out, errors = run_command(folder, *map(str, arguments))
    assert code == 0, errors
    return out
