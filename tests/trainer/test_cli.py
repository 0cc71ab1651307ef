"""What a user sees: exit codes, one `error:` line, nothing written where the input is wrong."""

import contextlib
import io
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tomli_w

from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values, write_dataset
from trainer.cli.app import run
from trainer.config.load import parse_config
from trainer.distributed.world import World
from trainer.errors import ConfigError

VIDEO_TABLE = {"name": "video", "rows": 64, "dim": 4}


def command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line, run in a process of its own."""
    return run_on_ranks(1, _command, arguments)[0]


def _command(_: World, arguments: tuple[str, ...]) -> tuple[int, str, str]:
    import torch.distributed as dist

    dist.destroy_process_group()  # the command starts its own
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(list(arguments))
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # the harness ends one
    return code, out.getvalue(), err.getvalue()


def write_config(folder: Path, **sections: Any) -> str:
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(config_values(folder, **sections)))
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "train", 600, seed=1)
    write_dataset(tmp_path / "test", 101, seed=2)
    return tmp_path


def assert_refused(folder: Path, result: tuple[int, str, str], *parts: str) -> None:
    code, _, err = result
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert not (folder / "run").exists()


def test_train_evaluate_and_the_finished_run(folder: Path) -> None:
    config = write_config(folder, train={"samples": 512}, evaluate={"at_samples": ["256", "512"]})
    code, out, err = command("train", config)
    assert (code, err) == (0, "")
    for text in ("embedding tables", "evaluation at 256 samples", "oracle NE", "result", "loss"):
        assert text in out
    names = {path.name for path in (folder / "run").iterdir()}
    records = {"train.jsonl", "evaluations.jsonl", "segments.jsonl", "events.jsonl"}
    assert names == {
        "config.toml",
        "identity",
        "lock",
        "calibration",
        "checkpoints",
        "evaluations",
        "fusion",
        "manifests",
        "tensorboard",
        *records,
    }
    assert {path.name for path in (folder / "run" / "checkpoints").iterdir()} == {"256", "512"}
    code, out, _ = command("evaluate", str(folder / "run"), "--checkpoint", "256", "--json")
    assert code == 0
    assert out.count("\n") == 3
    before = (folder / "run" / "train.jsonl").read_text()
    code, out, _ = command("train", config)
    assert code == 0
    assert "result" in out
    assert (folder / "run" / "train.jsonl").read_text() == before


def test_nothing_that_a_run_writes_can_be_written_by_everyone(folder: Path) -> None:
    config = write_config(folder, train={"samples": 256})
    assert run_on_ranks(1, _command_under_an_open_umask, ("train", config))[0][0] == 0
    written = [folder / "run", *(folder / "run").rglob("*")]
    assert len(written) > 10
    assert not [path for path in written if path.stat().st_mode & stat.S_IWOTH]


def _command_under_an_open_umask(world: World, arguments: tuple[str, ...]) -> tuple[int, str, str]:
    os.umask(0)
    return _command(world, arguments)


def rewrite(folder: Path, split: str, change: Callable[[pa.Table], pa.Table]) -> None:
    for path in (folder / split).iterdir():
        pq.write_table(change(pq.read_table(path)), path, row_group_size=97)


def with_value(name: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.array(values, table[name].type))

    return change


BAD_DATA: dict[str, tuple[str, Callable[[pa.Table], pa.Table], tuple[str, ...]]] = {
    "feature missing": ("train", lambda table: table.drop_columns(["user"]), ("no column 'user'",)),
    "feature missing in test": ("test", lambda table: table.drop_columns(["user"]), ("no column 'user'", "test")),
    "wrong type": (
        "train",
        lambda table: table.set_column(0, "user", pc.add(table["user"].cast(pa.float64()), 0.5)),
        ("row 0 of row group", "column 'user' holds", "which is no whole number", "boundaries"),
    ),
    "string without hash": (
        "train",
        lambda table: table.set_column(0, "user", table["user"].cast(pa.string())),
        ("column 'user' is string", "hash = true"),
    ),
    "other kinds": (
        "test",
        lambda table: table.set_column(1, "video", pc.utf8_length(table["video"])),
        ("column 'video' is integer (int32) in", "but text (string) in", "train, which the model is trained on"),
    ),
    "no rows": ("train", lambda table: table.slice(0, 0), ("hold no rows",)),
    "label 2": ("train", with_value("click", 5, 2), ("row 5 of row group 0 of", "label 'click' is 2", "0, 1 or null")),
    "label NaN": ("train", with_value("watch", 7, float("nan")), ("row 7 of", "label 'watch' is nan")),
    "bad label in test": ("test", with_value("click", 3, -1), ("row 3 of row group 0 of", "label 'click' is -1")),
    "id too large": ("train", with_value("user", 4, 50), ("row 4 of", "'user' holds id 50", "rows 0 to 49", "hash")),
    "id negative": ("train", with_value("recent", 4, [1, -1]), ("row 4 of", "'recent' holds id -1")),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(folder: Path, case: str) -> None:
    split, change, parts = BAD_DATA[case]
    rewrite(folder, split, change)
    assert_refused(folder, command("train", write_config(folder, train={"samples": 512})), *parts)


BAD_CONFIG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no such data": ({"data": {"train": "nowhere"}}, ("nowhere", "no such file or folder")),
    "too many samples": ({"train": {"samples": "1k"}}, ("train.samples = 1000", "600 rows", "data.repeat")),
    "batch beyond the data": ({"data": {"global_batch_size": 1024}, "train": {"samples": 10}}, ("not one batch fits",)),
    "bf16 on a CPU": ({"train": {"samples": 64, "precision": "bf16"}}, ("needs a GPU",)),
    "adam for tables on a CPU": (
        {"optimizer": {"sparse": {"name": "adam"}}},
        ("optimizer.sparse.name = 'adam' needs a GPU",),
    ),
    "adam for one table on a CPU": (
        {"tables": [{"name": "user", "rows": 50, "dim": 8, "optimizer": {"name": "adam"}}, VIDEO_TABLE]},
        ("table 'user': optimizer.name = 'adam' needs a GPU",),
    ),
    "a table in the host's memory, cached on a GPU that is not there": (
        {"tables": [{"name": "user", "rows": 50, "dim": 8, "kernel": "fused_uvm_caching"}, VIDEO_TABLE]},
        ("table 'user': kernel = 'fused_uvm_caching' needs a GPU, whose memory it spares; use 'fused'",),
    ),
    "bfloat16 between ranks on CPUs": (
        {"sharding": {"communication": "bfloat16"}},
        ("sharding.communication = 'bfloat16' needs GPUs", "use 'float16'"),
    ),
    "weight decay of tables on a CPU": (
        {"optimizer": {"sparse": {"weight_decay": 0.1}}},
        ("optimizer.sparse.weight_decay = 0.1 needs GPUs", "remove it"),
    ),
    "unknown key of a table's optimizer": (
        {"tables": [{"name": "user", "rows": 50, "dim": 8, "optimizer": {"lr": 0.1}}, VIDEO_TABLE]},
        ("unknown key 'tables.0.optimizer.lr'",),
    ),
    "oracle as feature": (
        {"features": {"dense": [{"column": "oracle_click"}], "sparse": [{"column": "user", "table": "user"}]}},
        ("oracle_click",),
    ),
}


@pytest.mark.parametrize("case", BAD_CONFIG)
def test_bad_config(folder: Path, case: str) -> None:
    changes, parts = BAD_CONFIG[case]
    if case == "oracle as feature":
        changes = changes | {"tables": [{"name": "user", "rows": 50, "dim": 4}]}
    assert_refused(folder, command("train", write_config(folder, **{"train": {"samples": 512}, **changes})), *parts)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"head": "mmoe", "task_experts": 2},
            "key 'model.task_experts' is not used by head 'mmoe'; remove it (heads that use it: ple, adatt_sp, adatt, "
            "stem)",
        ),
        ({"head": "shared_bottom", "experts": 2}, "heads that use it: mmoe, ml_mmoe"),
        ({"head": "ple", "native_fusion": False}, "heads that use it: adatt_sp, adatt"),
        ({"head": "ple", "task_expert": 2}, "did you mean 'task_experts'?"),
        ({"head": "plee"}, "unknown head 'plee'"),
        ({"head": "ple", "task_experts": 0}, "test: model.task_experts: input should be greater than 0, not 0"),
        (
            {"head": "ple", "task_experts": [1, 0, 1]},
            "test: model.task_experts.1: input should be greater than 0, not 0",
        ),
        (
            {"head": "ple", "task_experts": "two"},
            "test: model.task_experts: input should be a valid integer, not 'two'",
        ),
        (
            {"head": "ple", "task_experts": [1]},
            "test: model.task_experts = [1] must be one number, or one for each of 3",
        ),
    ],
)
def test_a_key_that_the_head_does_not_use(folder: Path, model: dict[str, Any], message: str) -> None:
    values = config_values(folder) | {"model": model}
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config(values, "test")


def test_bench_heads() -> None:
    """Every key of the contract, for a head far from the defaults."""
    options = ["--head", "ple", "--batch", "8", "--input", "16", "--tasks", "2", "--rounds", "1", "--json"]
    call = [sys.executable, "-m", "trainer", "bench", "heads", *options]
    found = subprocess.run(call, capture_output=True, text=True, check=True, timeout=120)
    (line,) = found.stdout.splitlines()
    result = json.loads(line)
    assert result["parameters"] > 0
    assert result.keys() >= {
        *("head", "batch", "tasks", "task_experts", "input", "threads", "samples_per_second", "speedup"),
        *("loop_samples_per_second", "matmul_fraction", "parameters", "flops_per_sample", "peak_bytes"),
    }


def test_run_directory_of_another_config(folder: Path) -> None:
    config = write_config(folder, train={"samples": 64})
    assert command("train", config)[0] == 0
    code, _, err = command("train", config, "--set", "model.task_experts=3")
    assert code == 2
    assert "holds a run of another config: model.task_experts was 2, now 3" in err


def test_run_directory_that_is_none(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "mine.txt").write_text("mine")
    code, _, err = command("train", write_config(folder, train={"samples": 64}))
    assert code == 2
    assert "not empty and holds no run" in err
    assert [path.name for path in (folder / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'CONFIG'"),
        (["train", "nowhere.toml"], "nowhere.toml: no such config file"),
        (["train", "x.toml", "--sett", "a=1"], "No such option"),
        (["evaluate", "nowhere"], "no run here"),
        (["synth", "out", "--samples", "many"], "--samples: 'many' is not a count"),
        (["synth", "out", "--samples", "10", "--tasks", "six"], "'six'"),
        (["import", "kuairand", "nowhere", "out"], "nowhere"),
        (["import"], "Missing command"),
        (["bench", "data", "--schema", "narrow"], "--schema: unknown schema 'narrow'; choose from wide, strings"),
        (
            ["bench", "balance", "--method", "pcgard"],
            "--method: unknown name 'pcgard'; choose from constant",
        ),
        (["bench", "balance", "--head", "ple"], "--head: unknown name 'ple'; choose from shared_bottom, adatt"),
        (["bench", "heads", "--head", "adat"], "--head: unknown head 'adat'; choose from shared_bottom, single_task"),
    ],
)
def test_bad_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(tmp_path, command(*arguments), part)


def test_help_of_every_command() -> None:
    for words in (
        [],
        ["train"],
        ["evaluate"],
        ["predict"],
        ["audit"],
        ["compare"],
        ["report"],
        ["tune"],
        ["synth"],
        ["import"],
        ["import", "kuairand"],
        ["bench", "train"],
        ["bench", "heads"],
        ["bench", "data"],
        ["bench", "balance"],
    ):
        code, out, _ = command(*words, "--help")
        assert code == 0
        assert "Usage: adatt" in out


@pytest.mark.parametrize("package", ["models", "data"])
def test_module_and_shadowed_package(tmp_path: Path, package: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    call = [sys.executable, "-m", "trainer", "train", "nowhere.toml"]
    found = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: package {package!r} comes from")


def test_lanes_must_be_shared_equally(folder: Path) -> None:
    config = write_config(
        folder,
        data={"lanes": 2, "global_batch_size": 64, "train": str(folder / "train"), "test": str(folder / "test")},
        train={"samples": 64},
    )
    for code, err in run_on_ranks(4, _train_in_world, config):
        assert code == 2
        assert "data.lanes = 2 is not divisible by the 4 ranks" in err
    assert not (folder / "run").exists()


def _train_in_world(world: World, config: str) -> tuple[int, str]:
    from data.errors import ExpectedError
    from trainer.config.load import load_config
    from trainer.train import train

    try:
        train(load_config(config), world)
    except ExpectedError as error:
        return 2, str(error)
    return 0, ""
