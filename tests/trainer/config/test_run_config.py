"""A wrong config is one line that names the key, what is wrong and the way out."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.datasets import config_values
from trainer.config.load import load_config, parse_config
from trainer.errors import ConfigError

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": {"haed": 1}}, "unknown key 'model.haed'; did you mean 'head'?"),
    ({"model": {"shared_expert": 1}}, "did you mean 'shared_experts'?"),
    (
        {"optimizer": {"dense": {"learning_rat": 1.0}}},
        "unknown key 'optimizer.dense.learning_rat'; did you mean 'learning_rate'?",
    ),
    ({"data": {"lane": 1}}, "unknown key 'data.lane'; did you mean 'lanes'?"),
    ({"data": {"lanes": 0}}, "data.lanes: input should be greater than 0, not 0"),
    ({"data": {"lanes": "many"}}, "data.lanes: input should be a valid integer"),
    ({"data": {"lanes": 3}}, "data.global_batch_size = 64 is not a multiple of data.lanes = 3"),
    (
        {"data": {"order": "random"}},
        "data.order: input should be 'shuffled', 'chronological' or 'stored', not 'random'",
    ),
    ({"model": {"head": "adat"}}, "model.head: unknown head 'adat'; choose from 'shared_bottom', 'single_task'"),
    (
        {"balance": {"method": "pcgrat"}},
        "balance.method: unknown method 'pcgrat'; choose from 'constant', 'uncertainty'",
    ),
    ({"balance": {"c": 0.5}}, "balance.method is missing; choose from 'constant', 'uncertainty'"),
    (
        {"balance": {"method": "pcgrad", "c": 0.5}},
        "key 'balance.c' is not used by method 'pcgrad'; remove it (methods that use it: cagrad)",
    ),
    ({"balance": {"method": "imtl_l", "every": 2}}, "key 'balance.every' is not used by method 'imtl_l'; remove it"),
    ({"balance": {"method": "famo", "at": "trunk"}}, "key 'balance.at' is not used by method 'famo'; remove it"),
    ({"balance": {"method": "gradnorm", "alfa": 1}}, "unknown key 'balance.alfa'; did you mean 'alpha'?"),
    ({"balance": {"method": "cagrad", "c": 7}}, "balance.c: input should be less than 1, not 7"),
    ({"balance": {"method": "cagrad", "at": "trunk"}}, "balance.at = 'trunk' takes a head with one trunk"),
    (
        {"balance": {"method": "pcgrad"}, "init": {"from": "x", "freeze": ["*"]}},
        "balance.method = 'pcgrad' works on what the tables give to the head, and init.freeze leaves no table to train",
    ),
    ({"balance": {"method": "rotograd"}}, "it takes model.head = 'shared_bottom' with balance.at = 'trunk'"),
    ({"model": {"levels": [[0]]}}, "model.levels.0.0: input should be greater than 0, not 0"),
    ({"model": {"task_experts": [1, 2]}}, "task_experts"),
    ({"train": {"samples": "1.5.2k"}}, "train.samples: '1.5.2k' is not a count"),
    ({"train": {"samples": 0}}, "train.samples: input should be greater than 0, not 0"),
    ({"evaluate": {"at_samples": ["1k", 512]}}, "evaluate.at_samples = ['1k', '512'] must ascend"),
    ({"evaluate": {"at_samples": ["70B"]}}, "milestone 70B lies beyond train.samples = 1024"),
    ({"tables": [{"name": "user", "rows": 5, "dim": 8}]}, "feature 'video' reads table 'video'"),
    (
        {
            "model": {"head": "stem"},
            "tables": [{"name": "user", "rows": 5, "dim": 8}, {"name": "video", "rows": 64, "dim": 8192}],
        },
        "tables: 'video' has dim = 8192, and stem keeps 4 such embeddings in a row",
    ),
    ({"tables": [{"name": "user", "rows": 5, "dim": 7}]}, "tables.0.dim: input should be a multiple of 4, not 7"),
    ({"evaluate": {"at_samples": [-5]}}, "evaluate.at_samples.0: -5 is not a count"),
    ({"evaluate": {"at_samples": [True]}}, "evaluate.at_samples.0: true is not a count"),
    ({"evaluate": {"at_samples": [{"text": "x", "samples": 5}]}}, "evaluate.at_samples.0"),
    ({"run": {"dir": "x", "seed": True}}, "run.seed: input should be a valid integer"),
    ({"run": {"dir": "x", "seed": "17"}}, "run.seed: input should be a valid integer"),
    ({"run": {"dir": datetime.date(2026, 1, 1), "seed": "17"}}, "run.seed: input should be a valid integer"),
    ({"model": {"task_experts": 10**9}}, "less than or equal to 1024"),
    ({"tables": [{"name": "user", "rows": 10**23, "dim": 8}]}, "tables.0.rows"),
    ({"tasks": []}, "tasks: tuple should have at least 1 item"),
    ({"tasks": [{"name": "a", "kind": "binary", "label": "age"}]}, "label 'age' of task 'a' is a feature too"),
    ({"tasks": [{"name": "row", "kind": "binary", "label": "click"}]}, "tasks: 'row' is the number of the row"),
    ({"optimizer": {"sparse": {"learning_rate": float("nan")}}}, "optimizer.sparse.learning_rate: input should be"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_one_line_names_the_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(config_values(tmp_path, **changes), "run.toml")
    text = str(caught.value)
    assert text.startswith("run.toml: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("head", ["adashare", "learning_to_branch"])
def test_a_temperature_does_not_rise(tmp_path: Path, head: str) -> None:
    values = config_values(tmp_path) | {"model": {"head": head, "levels": [[4]], "lowest_temperature": 6}}
    with pytest.raises(ConfigError, match=r"model\.lowest_temperature = 6\.0 is above model\.temperature = 5\.0"):
        parse_config(values, "run.toml")


def test_features_that_a_head_names_are_the_configs(tmp_path: Path) -> None:
    values = config_values(tmp_path)
    values["model"] = {"head": "pepnet", "gate_features": ["user", "age"]}
    assert parse_config(values, "run.toml").columns.widths == (8, 4, 4, 1)
    values["model"]["gate_features"] = ["user", "nobody"]
    names = "run.toml: model.gate_features names 'nobody'; the features are user, video, recent, age"
    with pytest.raises(ConfigError, match=names):
        parse_config(values, "run.toml")


def test_missing_section(tmp_path: Path) -> None:
    values = config_values(tmp_path)
    del values["tasks"]
    with pytest.raises(ConfigError, match=r"run\.toml: key 'tasks' is missing"):
        parse_config(values, "run.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[run\ndir = 1", r"not valid TOML: .*line 1"),
        (b"a = 1\nb = [1,\n", r"not valid TOML: .*end of document"),
        (b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_unreadable_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_set_changes_values_and_entries_of_lists(quickstart: Path) -> None:
    changes = ["train.samples=70B", "tables.0.dim=8", "run.dir=runs/other", "evaluate.at_samples=['1k', '70B']"]
    config = load_config(quickstart, changes)
    assert config.train.samples == 70_000_000_000
    assert config.tables[0].dim == 8
    assert config.run.dir == "runs/other"
    assert [milestone.samples for milestone in config.evaluate.at_samples] == [1000, 70_000_000_000]


@pytest.mark.parametrize(
    "change", ["train.samples", "=3", "tables.99.dim=8", "tables.name=8", "train.samples.x=1", "."]
)
def test_set_without_a_place(quickstart: Path, change: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_config(quickstart, [change])


@pytest.fixture
def quickstart() -> Path:
    return Path(__file__).parents[3] / "configs" / "quickstart.toml"


def test_shipped_configs_are_valid() -> None:
    for path in sorted((Path(__file__).parents[3] / "configs").glob("*.toml")):
        load_config(path)


def test_plans_that_are_another_algorithm_are_refused_with_the_reason(quickstart: Path) -> None:
    with pytest.raises(ConfigError, match=r"column_wise.* holds another algorithm: by columns every shard keeps"):
        load_config(quickstart, ['sharding.allow=["row_wise", "column_wise"]'])
