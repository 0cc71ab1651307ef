"""The image's entry point: which commands become ranks, what torchrun is told, and which exit code comes out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.entrypoint import exit_code, torchrun_arguments, uses_ranks

TRAIN = ["train", "run.toml"]
STATIC = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-0"}


@pytest.mark.parametrize("arguments", [TRAIN, ["evaluate", "runs/a", "--json"], ["bench", "train", "run.toml"]])
def test_commands_that_share_work_use_ranks(arguments: list[str]) -> None:
    assert uses_ranks(arguments)


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["synth", "out"], ["bench", "heads"], ["import", "train"], ["train", "--help"]]
)
def test_other_commands_are_one_process(arguments: list[str]) -> None:
    assert not uses_ranks(arguments)


def test_one_node_needs_no_variables() -> None:
    where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    for environment, restarts in ({}, "0"), ({"MAX_RESTARTS": "2"}, "2"):
        expected = [
            "--nproc-per-node",
            "4",
            "--nnodes",
            "1",
            "--max-restarts",
            restarts,
            *where,
            "-m",
            "trainer",
            *TRAIN,
        ]
        assert torchrun_arguments({"PROCESSES": "4"} | environment, TRAIN) == expected


def test_empty_variables_count_as_unset() -> None:
    unset = {"PROCESSES": "", "NNODES": "", "RDZV_ENDPOINT": ""}
    assert torchrun_arguments(unset, TRAIN) == torchrun_arguments({}, TRAIN)


def test_several_nodes_meet_at_the_master() -> None:
    where = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "node-0", "--master-port"]
    for environment, port in ((STATIC, "29500"), (STATIC | {"MASTER_PORT": "1234"}, "1234")):
        expected = ["--nproc-per-node", "1", *where, port, "-m", "trainer", *TRAIN]
        assert torchrun_arguments(environment, TRAIN) == expected


@pytest.mark.parametrize(
    ("environment", "nodes", "restarts"),
    [
        ({"NNODES": "2"}, "2:2", "0"),
        ({"NNODES": "2", "MAX_RESTARTS": "5"}, "2:2", "5"),
        ({"NNODES": "1:2"}, "1:2", "3"),
        ({"NNODES": "1:2", "MAX_RESTARTS": "0"}, "1:2", "0"),
    ],
)
def test_several_nodes_meet_at_a_rendezvous(environment: dict[str, str], nodes: str, restarts: str) -> None:
    where = {"RDZV_ENDPOINT": "node-0:29400", "RDZV_ID": "job-7", "RDZV_CONF": "last_call_timeout=5"}
    arguments = torchrun_arguments(environment | where, TRAIN)
    expected = ["--nnodes", nodes, "--max-restarts", restarts, "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    expected += ["node-0:29400", "--rdzv-id", "job-7", "--rdzv-conf", "last_call_timeout=5"]
    assert arguments == ["--nproc-per-node", "1", *expected, "-m", "trainer", *TRAIN]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PROCESSES": "0"}, "PROCESSES is '0'; give a whole number of at least 1"),
        ({"PROCESSES": "two"}, "PROCESSES is 'two'"),
        ({"NNODES": "0"}, "NNODES is '0'; give the number of nodes, at least 1, or a range of it such as 1:2"),
        ({"NNODES": "4:1"}, "NNODES is '4:1'"),
        ({"NNODES": "1:2:3"}, "NNODES is '1:2:3'"),
        ({"NNODES": "1:4"}, "NNODES is a range, 1:4; set RDZV_ENDPOINT=HOST:PORT"),
        ({"MAX_RESTARTS": "-1"}, "MAX_RESTARTS is '-1'; give a whole number of at least 0"),
        (STATIC | {"MAX_RESTARTS": "1"}, "MAX_RESTARTS is 1, but nodes meet at MASTER_ADDR only once"),
        ({"NNODES": "2"}, "MASTER_ADDR and NODE_RANK are not both set; set them"),
        ({"NNODES": "2", "MASTER_ADDR": "node-0"}, "NODE_RANK: 0 to 1"),
        (STATIC | {"NODE_RANK": "2"}, "NODE_RANK is 2; with NNODES=2 the last node is 1"),
        (STATIC | {"NODE_RANK": "-1"}, "NODE_RANK is '-1'"),
        (STATIC | {"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
    ],
)
def test_a_wrong_environment_is_told(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        torchrun_arguments(environment, TRAIN)


@pytest.mark.parametrize(("process_code", "expected"), [(0, 0), (2, 2), (75, 75), (-15, 143), (-9, 137)])
def test_a_signal_counts_from_128(process_code: int, expected: int) -> None:
    assert exit_code(process_code) == expected


def entrypoint(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the entry point as the image does."""
    command = [sys.executable, "-m", "launch.entrypoint", *arguments]
    home = Path(__file__).parents[2]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_command_of_one_process_replaces_the_entry_point() -> None:
    done = entrypoint("nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PROCESSES": "none"}, "PROCESSES is 'none'; give a whole number of at least 1"),
        ({"GRACE_SECONDS": "2m"}, "GRACE_SECONDS is '2m'; give a whole number of at least 1"),
        (
            {"RDZV_ENDPOINT": "localhost:29400", "RDZV_CONF": "fast"},
            "The rendezvous configuration option 'fast' must have a value specified. "
            "(RDZV_ENDPOINT, RDZV_BACKEND, RDZV_CONF)",
        ),
    ],
)
def test_a_wrong_environment_ends_with_2(variables: dict[str, str], message: str) -> None:
    done = entrypoint("train", "run.toml", **{"PROCESSES": "1"} | variables)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")


def test_wrong_input_of_ranks_ends_with_2_and_nothing_of_torchrun() -> None:
    done = entrypoint("train", "no-such.toml", PROCESSES="2", OMP_NUM_THREADS="1")
    assert (done.returncode, done.stdout) == (2, "")
    lines = set(done.stderr.splitlines())  # a slow rank 0 may say what rank 1 has said
    assert len(lines) == 1
    assert lines.pop().startswith("error: no-such.toml")
