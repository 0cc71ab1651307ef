"""The table of the checks on real machines, and the machines that they skip."""

import os
import subprocess

import pytest

from tests.checks import Table, missing_tools, run
from tests.image.build import pip_downloads


def test_a_row_that_fails_ends_the_check_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    with table.row("one") as seen:
        seen += ["this", "that"]
    with pytest.raises(SystemExit) as ended, table.row("two"):
        run("sh", "-c", "echo the reason >&2; exit 3")

    assert ended.value.code == 1
    out, errors = capsys.readouterr()
    assert out.splitlines()[2:] == ["| one | this; that | 0 |", "| two | **FAILED** | 0 |"]
    assert "exit status 3" in errors
    assert errors.endswith("the reason\n")


def test_a_check_says_what_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert missing_tools({"coreutils": ["true"]}) is None
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert missing_tools({"coreutils": ["true"]}) == "no coreutils, and no apt-get to install them"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing_tools({}) == "it needs Linux, and root"


def test_an_installation_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str, **__: object) -> str:
        raise subprocess.CalledProcessError(100, "apt-get", stderr="E: no network")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: name if name == "apt-get" else None)
    monkeypatch.setattr("tests.checks.run", refuse)
    reason = missing_tools({"runc": ["runc"]}) or ""
    assert reason.startswith("apt-get cannot install runc: ")
    assert reason.endswith("E: no network")


def test_wheels_are_those_of_make_setup() -> None:
    (*_, last), (how, torchrec) = pip_downloads()
    assert last.startswith("tqdm==")
    assert (how, torchrec.partition("==")[0]) == ("--no-deps", "torchrec")
