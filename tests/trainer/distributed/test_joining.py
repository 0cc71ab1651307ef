"""Ranks that cannot train together all end at once, with one line that says why; nothing is written."""

import http.server
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w

from tests.jobs import Ended, announced, free_port, run_job
from tests.trainer.datasets import config_values, write_dataset
from trainer import inputs as start
from trainer.distributed import joining
from trainer.distributed import rendezvous as roll_call
from trainer.distributed.world import World

HOST = socket.gethostname()


def write_config(folder: Path, name: str = "config.toml", **sections: Any) -> str:
    values = config_values(folder, train={"samples": 256}, checkpoint={"every_samples": 128}, log={})
    for section, changes in sections.items():
        values[section] = {**values.get(section, {}), **changes}
    (folder / name).write_text(tomli_w.dumps(values))
    return str(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "train", 600, seed=1)
    write_dataset(tmp_path / "test", 101, seed=2)
    return tmp_path


def assert_told(folder: Path, results: Sequence[Ended], pattern: str, code: int = 2) -> None:
    """Each rank ends with one line that matches, and nothing has been written."""
    for result in results:
        assert result.code == code, result
        assert re.fullmatch(f"error: .*{pattern}.*\n", result.err), result.err
    assert not (folder / "run").exists()


def train_well(config: str) -> None:
    results = run_job([["train", config]] * 2)
    assert [result.code for result in results] == [0, 0], results


# Ranks that differ.


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ("optimizer.dense.learning_rate=0.5", r"0\.001 on rank 0 \(host \S+\), 0\.5 on rank 1 \(host \S+\)"),
        ("data.global_batch_size=32", "64 on rank 0 .*, 32 on rank 1 "),
        ("data.lanes=8", "4 on rank 0 .*, 8 on rank 1 "),
        ("tables.0.dim=4", "8 on rank 0 .*, 4 on rank 1 "),
    ],
)
def test_set_on_one_rank_only(folder: Path, change: str, values: str) -> None:
    config = write_config(folder)
    results = run_job([["train", config], ["train", config, "--set", change]])
    assert_told(folder, results, f"the ranks differ: {re.escape(change.partition('=')[0])} is {values}")


def test_third_rank_differs(folder: Path) -> None:
    config = write_config(folder)
    results = run_job([["train", config]] * 3 + [["train", config, "--set", "run.seed=5"]])
    assert_told(folder, results, "run.seed is 17 on rank 0 .*, 5 on rank 3 ")


def test_other_command(folder: Path) -> None:
    config = write_config(folder)
    results = run_job([["train", config], ["bench", "train", config]])
    assert_told(folder, results, 'command is "train" on rank 0 .*, "bench train" on rank 1 ')


def test_option_of_one_rank(folder: Path) -> None:
    config = write_config(folder)
    results = run_job([["train", config], ["train", config, "--profile"]])
    assert_told(folder, results, "--profile is false on rank 0 .*, true on rank 1 ")


def test_world_size_of_one_rank(folder: Path) -> None:
    config, port = write_config(folder), free_port()
    results = run_job([["train", config]] * 2, [announced(0, 2, port), announced(1, 4, port)])
    assert_told(folder, results, "WORLD_SIZE is 2 on rank 0 .*, 4 on rank 1 ")


def test_nodes_of_different_size(folder: Path) -> None:
    config, port = write_config(folder), free_port()
    sizes = [announced(rank, 3, port, LOCAL_WORLD_SIZE=size) for rank, size in enumerate("221")]
    results = run_job([["train", config]] * 3, sizes)
    assert_told(folder, results, "LOCAL_WORLD_SIZE is 2 on rank 0 .*, 1 on rank 2 ")


def test_one_rank_twice(folder: Path) -> None:
    config, port = write_config(folder), free_port()
    results = run_job([["train", config]] * 3, [announced(rank, 3, port) for rank in (0, 1, 1)])
    assert_told(folder, results, rf"RANK=1 has been given to two processes.*: process \d+ on host {HOST} and process ")


def test_bench_train(folder: Path) -> None:
    config = write_config(folder)
    command = ["bench", "train", config, "--batches"]
    assert_told(folder, run_job([[*command, "1"], [*command, "2"]]), "--batches is 1 on rank 0 .*, 2 on rank 1 ")


# A rank that fails before it has joined.


@pytest.mark.parametrize("lost", [0, 1])
def test_config_of_one_rank_is_missing(folder: Path, lost: int) -> None:
    commands = [["train", write_config(folder)] for _ in range(2)]
    commands[lost] = ["train", "nowhere.toml"]
    begin = time.monotonic()
    results = run_job(commands)
    assert time.monotonic() - begin < roll_call.LAST_WORDS_SECONDS
    assert_told(folder, results, "nowhere.toml: no such config file")
    assert results[1 - lost].err.startswith(f"error: rank {lost} (host {HOST}): nowhere.toml")
    assert results[lost].err.startswith("error: nowhere.toml")


def test_config_of_all_ranks_is_missing() -> None:
    for result in run_job([["train", "nowhere.toml"]] * 3):
        assert (result.code, result.err) == (2, "error: nowhere.toml: no such config file\n")


def lack_a_package_on_rank_1() -> None:
    import os

    if os.environ["RANK"] == "1":
        sys.modules["trainer.train"] = None  # type: ignore[assignment]


def test_package_of_one_rank_is_missing(folder: Path) -> None:
    results = run_job([["train", write_config(folder)]] * 2, prepare=lack_a_package_on_rank_1)
    assert_told(folder, results, "trainer.train.* for .*python.*; install what the program needs, alike on all nodes")


def fail_on_rank_1() -> None:
    import os

    def account_of(*_: Any) -> None:
        raise TypeError("a bug")

    if os.environ["RANK"] == "1":
        joining.account_of = account_of  # type: ignore[assignment]


def test_bug_in_one_rank_ends_the_other(folder: Path) -> None:
    first, second = run_job([["train", write_config(folder)]] * 2, prepare=fail_on_rank_1)
    assert_told(folder, [first], r"rank 1 \(host \S+\): TypeError: a bug; its own output says where", code=1)
    assert "Traceback" in second.err
    assert second.code == 1


# Nodes that do not see the same files.


def test_dataset_of_one_rank_is_missing(folder: Path) -> None:
    config = write_config(folder)
    results = run_job([["train", config], ["train", config, "--set", "data.test=nowhere"]])
    assert_told(folder, results, r"rank 1 \(host \S+\) cannot read what rank 0 .* has read: dataset nowhere: no such")


def test_copy_of_a_dataset_that_is_another(folder: Path) -> None:
    config = write_config(folder)
    shutil.copytree(folder / "train", folder / "copy")
    (folder / "copy" / "part-1.parquet").unlink()
    write_dataset(folder / "other", 600, seed=3)
    shutil.copy(folder / "other" / "part-1.parquet", folder / "copy" / "part-1.parquet")
    results = run_job([["train", config], ["train", config, "--set", f"data.train={folder / 'copy'}"]])
    assert_told(
        folder, results, r"copy of rank 1 \(host \S+\) is not dataset \S*train of rank 0 .*: there, .*part-1.parquet"
    )


def test_own_copies_of_the_datasets_are_trained_alike(folder: Path) -> None:
    """Other paths, other times of modification, one run's folder behind two names."""
    config = write_config(folder)
    train_well(config)
    for name in ("train", "test"):
        shutil.copytree(folder / name, folder / "node-1" / name, copy_function=shutil.copyfile)
    (folder / "link").symlink_to(folder / "again")
    changes = [f"data.{name}={folder / 'node-1' / name}" for name in ("train", "test")]
    others = [
        option for change in [*changes, f"run.dir={folder / 'link'}", "data.threads=3"] for option in ("--set", change)
    ]
    results = run_job([["train", config, "--set", f"run.dir={folder / 'again'}"], ["train", config, *others]])
    assert [result.code for result in results] == [0, 0], results
    sums = [pq.read_table(folder / name / "evaluations" / "256.parquet") for name in ("run", "again")]
    assert sums[0].equals(sums[1])


def test_run_folder_that_is_not_shared(folder: Path) -> None:
    config = write_config(folder)
    results = run_job([["train", config], ["train", config, "--set", f"run.dir={folder / 'own' / 'run'}"]])
    assert_told(folder, results, r"own/run' of rank 1 \(host \S+\) is not '.*/run' of rank 0 \(host \S+\): what is")
    assert not (folder / "own").exists()


def test_run_folder_that_is_not_shared_any_more(folder: Path) -> None:
    """A run that is gone on with keeps all that it had."""
    config = write_config(folder)
    train_well(config)
    before = sorted((folder / "run").rglob("*"))
    command = ["train", config, "--set", "train.samples=320"]
    for result in run_job([command, [*command, "--set", f"run.dir={folder / 'own'}"]]):
        assert result.code == 2
        assert "is not" in result.err
    assert sorted((folder / "run").rglob("*")) == before


def test_evaluate_where_one_node_lacks_the_run(folder: Path) -> None:
    config = write_config(folder)
    train_well(config)
    first, second = run_job([["evaluate", str(folder / "run")], ["evaluate", str(folder / "nowhere")]])
    assert (first.code, second.code) == (2, 2)
    assert re.match(r"error: rank 1 \(host \S+\): .*nowhere: no run here", first.err)
    shutil.copytree(folder / "run", folder / "other")
    text = (folder / "other" / "config.toml").read_text()
    (folder / "other" / "config.toml").write_text(text.replace("seed = 17", "seed = 18"))
    for result in run_job([["evaluate", str(folder / "run")], ["evaluate", str(folder / "other")]]):
        assert result.code == 2
        assert "run.seed is 17 on rank 0" in result.err


# Ranks that do not meet.


def be_impatient() -> None:
    roll_call.RESOLVE_SECONDS = roll_call.STORE_SECONDS = 2.0
    roll_call.LAST_WORDS_SECONDS = 2.0


def run_rank(folder: Path, rank: int, **variables: str) -> Ended:
    """One of two ranks, alone, with little patience."""
    config = write_config(folder, run={"hang_seconds": 3, "dir": str(folder / "run")})
    environment = {**announced(rank, 2, free_port()), **variables}
    return run_job([["train", config]], [environment], be_impatient)[0]


def test_rank_that_never_comes(folder: Path) -> None:
    assert_told(folder, [run_rank(folder, 0)], "rank 1 of 2 has not come within 3 s; see what became of it", code=1)


def test_nobody_answers(folder: Path) -> None:
    told = r"nobody answers at MASTER_ADDR=127.0.0.1, MASTER_PORT=\d+ within 3 s \(Connection refused\)"
    assert_told(folder, [run_rank(folder, 1)], told, code=1)


def test_host_that_is_not_known(folder: Path) -> None:
    result = run_rank(folder, 1, MASTER_ADDR="no-such-host.invalid")
    assert_told(folder, [result], rf"MASTER_ADDR='no-such-host.invalid' cannot be resolved on {HOST}")


def test_rank_0_elsewhere_than_announced(folder: Path) -> None:
    result = run_rank(folder, 0, MASTER_ADDR="no-such-host.invalid")
    assert_told(folder, [result], "MASTER_ADDR=no-such-host.invalid, MASTER_PORT=.* is not the ranks' rendezvous")


@pytest.fixture
def mute() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture
def web_server() -> Iterator[int]:
    """A port where something else answers."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("other", ["mute", "web_server"])
def test_something_else_at_the_port(folder: Path, request: pytest.FixtureRequest, other: str) -> None:
    port = request.getfixturevalue(other)
    result = run_rank(folder, 1, MASTER_PORT=str(port))
    assert_told(folder, [result], f"MASTER_PORT={port} is not the ranks' rendezvous")


def test_port_in_use(folder: Path, mute: int) -> None:
    result = run_rank(folder, 0, MASTER_PORT=str(mute))
    assert_told(folder, [result], f"MASTER_PORT={mute} is in use on host {HOST}; choose another")


# Between joining and the first step.


def hang_on_rank_1() -> None:
    def check_lanes(_: Any, world: World) -> None:
        if world.rank == 1:
            time.sleep(600)

    start.check_lanes = check_lanes  # type: ignore[assignment]


def test_hang_before_the_first_step_is_told(folder: Path) -> None:
    config = write_config(folder, run={"hang_seconds": 5, "dir": str(folder / "run")})
    results = run_job([["train", config]] * 2, prepare=hang_on_rank_1)
    assert [result.code for result in results] == [1, 1]
    told = "".join(result.err for result in results)
    assert re.match(
        r"error: no progress for 5 s in the reading of the datasets: rank 1 \(.*\) hangs in check_lanes", told
    )
    assert told.count("error: ") == 1
    assert not (folder / "run").exists()
