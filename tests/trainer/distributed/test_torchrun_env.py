"""A launcher's variables that are not whole, or cannot be, are one line."""

import re

import pytest

from trainer.distributed.torchrun_env import announced_ranks
from trainer.errors import ConfigError

WHOLE = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node-0",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WHOLE, "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_MAX_RESTARTS"):
        monkeypatch.delenv(name, raising=False)


def announce(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, WHOLE)
    ranks = announced_ranks()
    assert (ranks.rank, ranks.size, ranks.local_rank, ranks.local_size) == (1, 4, 1, 2)
    assert (ranks.address, ranks.port, ranks.hosts_store) == ("node-0", 29500, False)


@pytest.mark.parametrize(("rank", "agent", "hosts"), [("0", "", True), ("0", "True", False), ("1", "False", False)])
def test_who_opens_the_store(monkeypatch: pytest.MonkeyPatch, rank: str, agent: str, hosts: bool) -> None:
    announce(monkeypatch, {**WHOLE, "RANK": rank, "TORCHELASTIC_USE_AGENT_STORE": agent})
    assert announced_ranks().hosts_store == hosts


@pytest.mark.parametrize("variables", [{}, {"MASTER_ADDR": "node-0"}, {"LOCAL_RANK": "x"}])
def test_single_process(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    announce(monkeypatch, variables)
    ranks = announced_ranks()
    assert (ranks.rank, ranks.size, ranks.local_rank, ranks.announced) == (0, 1, 0, False)


def test_local_variables_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, {name: WHOLE[name] for name in WHOLE if not name.startswith("LOCAL")})
    assert (announced_ranks().local_rank, announced_ranks().local_size) == (0, 4)  # torchrec takes them for one host


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    announce(monkeypatch, {other: value for other, value in WHOLE.items() if other != name})
    with pytest.raises(ConfigError, match=f"^{name} is not set, though .*; torchrun, like any launcher, sets RANK"):
        announced_ranks()


@pytest.mark.parametrize("alone", ["RANK", "WORLD_SIZE"])
def test_one_alone(monkeypatch: pytest.MonkeyPatch, alone: str) -> None:
    announce(monkeypatch, {alone: "1"})
    with pytest.raises(ConfigError, match="is not set, though WORLD_SIZE or RANK is set"):
        announced_ranks()


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", ["", "  "])
def test_empty(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    announce(monkeypatch, {**WHOLE, name: value})
    with pytest.raises(ConfigError, match=f"^{name} is empty"):
        announced_ranks()


@pytest.mark.parametrize(
    ("name", "value", "must_be"),
    [
        ("RANK", "one", "from 0 to 3"),
        ("RANK", "4", "from 0 to 3"),
        ("RANK", "-1", "from 0 to 3"),
        ("RANK", "1.0", "from 0 to 3"),
        ("WORLD_SIZE", "0", "1 or more"),
        ("WORLD_SIZE", "two", "1 or more"),
        ("LOCAL_RANK", "2", "from 0 to 1"),
        ("LOCAL_RANK", "x", "from 0 to 1"),
        ("LOCAL_WORLD_SIZE", "5", "from 1 to 4"),
        ("LOCAL_WORLD_SIZE", "0", "from 1 to 4"),
        ("MASTER_PORT", "0", "from 1 to 65535"),
        ("MASTER_PORT", "65536", "from 1 to 65535"),
        ("MASTER_PORT", "http", "from 1 to 65535"),
    ],
)
def test_no_such_number(monkeypatch: pytest.MonkeyPatch, name: str, value: str, must_be: str) -> None:
    announce(monkeypatch, {**WHOLE, name: value})
    with pytest.raises(
        ConfigError, match=re.escape(f"{name} is {value!r}, but must be a whole number") + f".*{must_be}"
    ):
        announced_ranks()
