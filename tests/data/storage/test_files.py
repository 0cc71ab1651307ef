"""Files that are written: links are not followed, a replacement is whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data.errors import ExpectedError
from data.storage.files import LinkError, open_unlinked, replace_text, replaced
from data.storage.parsing import parse_json, parse_toml
from data.storage.paths import full_path, local_path, path_of
from data.trace import TraceWriter
from trainer.run.jsonl import append_records
from trainer.run.matrices import Fusion


def _trace(path: Path) -> None:
    TraceWriter(path).close()


def _append(path: Path) -> None:
    append_records(path, [Fusion(samples=1, levels=[])])


def _lock(path: Path) -> None:
    open(path, "a+", opener=open_unlinked).close()


@pytest.mark.parametrize("write", [_trace, _append, _lock])
def test_a_link_in_the_place_of_a_file_is_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    theirs, path = tmp_path / "theirs", tmp_path / "file.jsonl"
    theirs.write_text("precious")
    path.symlink_to(theirs)
    with pytest.raises(LinkError, match="it is a link, and links are not followed") as caught:
        write(path)
    assert caught.value.filename == str(path)
    assert theirs.read_text() == "precious"


def test_a_link_in_the_place_of_a_partial_file_is_named(tmp_path: Path) -> None:
    theirs, partial = tmp_path / "theirs", tmp_path / "config.partial"
    theirs.write_text("precious")
    partial.symlink_to(theirs)
    with pytest.raises(LinkError) as caught:
        replace_text(tmp_path / "config.toml", "new")
    assert caught.value.filename == str(partial)
    assert theirs.read_text() == "precious"
    assert partial.is_symlink()


def test_a_pipe_without_a_reader_does_not_hold_anyone_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.jsonl")
    with pytest.raises(OSError, match="No such device") as caught:
        _append(tmp_path / "train.jsonl")
    assert caught.value.filename == str(tmp_path / "train.jsonl")


def _fail_in_the_middle(path: Path) -> None:
    with replaced(path) as file:
        file.write(b"new")
        raise OSError(28, "no room on the disk")


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    replace_text(path, "old")
    with pytest.raises(OSError, match="disk") as caught:
        _fail_in_the_middle(path)
    assert caught.value.filename == str(path)
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"config.toml": "old"}


def test_home_is_put_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert full_path("~/x") == local_path("~/x") == tmp_path / "x"
    assert local_path("a/~/x") == Path("a/~/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--out '' is empty"),
        (" ", "--out ' ' is empty"),
        ("a\0b", r"--out 'a\x00b' holds a NUL"),
        ("s3://bucket/x", "--out 's3://bucket/x': only a local path"),
        (Path("s3://bucket/x"), "--out 's3:/bucket/x': only a local path"),
        ("x" * 256, "longer than 255 bytes"),
        ("ü" * 128, "longer than 255 bytes"),
        ("x/" * 2_100, "longer than 4,095 bytes"),
        ("~nobody-of-this-name/x", "there is no such home folder"),
    ],
)
def test_what_is_no_path_is_told(text: str | Path, message: str) -> None:
    with pytest.raises(ExpectedError) as caught:
        path_of("--out", text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("parse", "text"), [(parse_json, "[" * 5000), (parse_toml, "a = " + "[" * 5000)])
def test_what_is_nested_too_deeply_is_an_ordinary_error(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(text)
