"""Ranks that differ are told apart by what differs, with both values; what may differ is no difference."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.datasets import config_values
from trainer.config.load import parse_config
from trainer.distributed import agreement
from trainer.distributed.agreement import Account, account_of, difference

FOLDER = Path("data")


def account(changes: dict[str, Any], **start: Any) -> Account:
    """Of a rank whose config has `changes`, by key."""
    values = config_values(FOLDER)
    for key, value in changes.items():
        place: Any = values
        *sections, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
        for part in sections:
            place = place[part] if isinstance(place, list) else place.setdefault(part, {})
        place[last] = value
    return account_of(parse_config(values, "test").model_dump(mode="json"), "cpu", {"command": "train", **start})


CHANGES: dict[str, tuple[Any, str, str]] = {
    "optimizer.dense.learning_rate": (0.5, "0.001", "0.5"),
    "optimizer.sparse.learning_rate": (0.5, "0.02", "0.5"),
    "optimizer.sparse.eps": (0.5, "1e-08", "0.5"),
    "run.seed": (18, "17", "18"),
    "run.hang_seconds": (9.0, "900.0", "9.0"),
    "run.trace": (True, "false", "true"),
    "tasks.1.weight": (2.0, "not set", "2.0"),
    "features.dense.0.mean": (2.5, "0.0", "2.5"),
    "data.order": ("chronological", '"shuffled"', '"chronological"'),
    "data.global_batch_size": (32, "64", "32"),
    "data.lanes": (8, "4", "8"),
    "data.repeat": (True, "false", "true"),
    "train.samples": (512, "1024", "512"),
    "evaluate.at_samples": (["512"], "[]", '["512"]'),
    "checkpoint.every_samples": (256, "not set", "256"),
    "tables.0.dim": (4, "8", "4"),
    "tables.0.rows": (51, "50", "51"),
    "model.levels": ([[8], [8]], "[[16], [8]]", "[[8], [8]]"),
    "model.task_experts": (3, "2", "3"),
    "log.every_samples": (128, "64", "128"),
}


@pytest.mark.parametrize("key", CHANGES)
def test_key_that_differs_is_named_with_both_values(key: str) -> None:
    value, one, two = CHANGES[key]
    told = difference(account({}), account({key: value}), "rank 0 (host a)", "rank 1 (host b)")
    assert told is not None
    assert told.startswith(f"the ranks differ: {key} is "), told
    assert told.endswith(
        f"on rank 0 (host a), {two} on rank 1 (host b); give all ranks the same config, --set changes included"
    ), told
    if key not in ("features.dense.0.mean", "optimizer.sparse.learning_rate", "optimizer.sparse.eps"):  # own defaults
        assert f" is {one} on rank 0" in told


@pytest.mark.parametrize(
    "changes",
    [
        {"run.dir": "elsewhere"},
        {"run.device": "cpu"},
        {"data.train": "elsewhere"},
        {"data.test": "elsewhere"},
        {"data.threads": 7},
        {"train.samples": "1024"},
    ],
)
def test_what_may_differ(changes: dict[str, Any]) -> None:
    assert difference(account({}), account(changes), "rank 0", "rank 1") is None


def test_task_that_is_missing() -> None:
    values = config_values(FOLDER)
    one = account({})
    two = account({"tasks": values["tasks"][:2]})
    told = difference(one, two, "rank 0", "rank 1")
    assert told is not None
    assert told.startswith('the ranks differ: tasks.2.name is "rare" on rank 0, not set on rank 1')
    assert " more differ)" in told


def test_command_comes_first() -> None:
    told = difference(account({}), account({"run.seed": 3}, command="evaluate"), "rank 0", "rank 1")
    assert told == (
        'the ranks differ: command is "train" on rank 0, "evaluate" on rank 1; start the same command on all nodes'
    )


def test_device() -> None:
    one, two = account({}), account({})
    two["device"] = {"kind of device": "cuda"}
    told = difference(one, two, "rank 0", "rank 1")
    assert told is not None
    assert told.startswith("the ranks differ: kind of device is cpu on rank 0, cuda on rank 1; ")


@pytest.mark.parametrize("library", ["python", *agreement.LIBRARIES])
def test_version_of_a_library(library: str) -> None:
    one, two = account({}), account({"run.seed": 3})
    one["version"][library], two["version"][library] = "1.0", "1.1"
    told = difference(one, two, "rank 0", "rank 1")
    assert told == (
        f"the ranks differ: the version of {library} is 1.0 on rank 0, 1.1 on rank 1; "
        "install the same versions on all nodes"
    )


def test_versions_are_those_of_what_runs() -> None:
    import torch

    versions = account({})["version"]
    assert versions["torch"] == torch.__version__
    assert "not installed" not in [versions[name] for name in ("torch", "torchrec", "numpy", "pyarrow", "xxhash")]
    assert {versions["fbgemm-gpu"], versions["fbgemm-gpu-cpu"]} > {"not installed"}


def test_code_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data/order.py", "trainer/distributed/agreement.py", "models/heads/adatt.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a = 1\n")
    monkeypatch.setattr(agreement, "__file__", str(tmp_path / "trainer/distributed/agreement.py"))
    one = account({})
    (tmp_path / "models/heads/adatt.py").write_text("a = 2\n")
    told = difference(one, account({}), "rank 0", "rank 1")
    assert told is not None
    assert told.startswith("the ranks differ: the code of models/heads/adatt.py is ")
    assert told.endswith("; install the same version of the program on all nodes")


def test_every_package_is_part_of_the_code() -> None:
    assert {name.partition("/")[0] for name in account({})["code"]} == {"benchmarks", "data", "models", "trainer"}
