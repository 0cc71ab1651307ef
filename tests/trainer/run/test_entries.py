"""A run's folder that holds what it should not: one line that names it, and nothing is written anywhere."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from data.errors import ExpectedError
from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values, make_config
from trainer.cli.app import run
from trainer.config.load import load_config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

FILES = [
    "config.partial",
    "events.jsonl",
    "events.partial",
    "evaluations/512.parquet",
    "identity",
    "lock",
    "manifests/train.partial",
    "profile/rank-0.1.pt.trace.json",
    "segments.partial",
    "tensorboard/events.out.tfevents.1",
    "trace/segment-0.rank-0.arrow",
    "train.jsonl",
    "checkpoints/512/state.json.partial",
]
FOLDERS = ["checkpoints", "checkpoints/512.partial", "evaluations", "tensorboard", "trace", "profile", "manifests"]


def _links(folder: Path, names: list[str]) -> dict[str, Path]:
    """Links to a file or a folder of someone else, each in a run's folder of its own."""
    runs = {}
    for name in names:
        runs[name] = folder / name.replace("/", "-")
        path = runs[name] / name
        path.parent.mkdir(parents=True)
        path.symlink_to(folder / "theirs" if names is FOLDERS else folder / "theirs" / "x.partial")
    return runs


@pytest.mark.parametrize("names", [FILES, FOLDERS], ids=["files", "folders"])
def test_every_link_is_named(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "x.partial").write_text("precious")
    for name, folder in _links(tmp_path, names).items():
        with pytest.raises(ConfigError) as caught:
            RunDirectory(folder).check(make_config(tmp_path))
        assert str(caught.value).startswith(f"{folder / name}: is a link to ")
        with pytest.raises(ConfigError, match="is a link to "):
            RunDirectory(folder).check_entries()
    assert (tmp_path / "theirs" / "x.partial").read_text() == "precious"


def _tell(world: World, dataset: Path, folders: list[Path]) -> list[str]:
    told = []
    for folder in folders:
        try:
            train(make_config(dataset, run={"dir": str(folder)}, train={"samples": 128}), world)
        except ExpectedError as error:
            told.append(str(error))
        else:
            told.append("trained")
    return told


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_start_in_such_a_folder_writes_nothing(dataset: Path, tmp_path: Path, ranks: int) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "x.partial").write_text("precious")
    folders = [*_links(tmp_path, ["lock", "config.partial"]).values(), _links(tmp_path, FOLDERS)["checkpoints"]]
    for told in run_on_ranks(ranks, _tell, dataset, folders):
        assert all("is a link to" in line for line in told)
    assert [path.read_text() for path in theirs.iterdir()] == ["precious"]


def test_the_folder_itself_may_be_a_link(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    told = run_on_ranks(1, _tell, dataset, [tmp_path / "run", tmp_path / "run", tmp_path / "lost"])[0]
    assert told[:2] == ["trained", "trained"]
    assert "lost' is a link that leads nowhere" in told[2]
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "checkpoints" / "128").is_dir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _file(path: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("train.jsonl", _pipe, "train.jsonl: is neither a file nor a folder"),
        ("train.jsonl", _folder, "train.jsonl: is a folder, but a file of the run is called so"),
        ("events.jsonl", _folder, "events.jsonl: is a folder, but a file"),
        ("lock", _folder, "lock: is a folder, but a file"),
        ("tensorboard", _file, "tensorboard: is a file, but a folder of the run is called so"),
        ("checkpoints", _file, "checkpoints: is a file, but a folder"),
        ("evaluations", _file, "evaluations: is a file, but a folder"),
    ],
)
def test_the_other_kind_is_told(tmp_path: Path, name: str, make: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    make(folder / name)
    with pytest.raises(ConfigError, match=message):
        RunDirectory(folder).check(make_config(tmp_path))


@pytest.mark.parametrize("name", ["", "train.jsonl", "checkpoints", "tensorboard"])
def test_what_may_not_be_used_is_told(name: str, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become a user who may not write")
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents[:3]:  # under pytest-xdist one more
        if parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
            os.chmod(parent, 0o755)
    folder = tmp_path / "run"
    for part in ("checkpoints", "tensorboard"):
        (folder / part).mkdir(parents=True)
    (folder / "train.jsonl").write_text("")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777)
    (folder / name).chmod(0o444)
    read_end, write_end = os.pipe()
    config = make_config(tmp_path)
    if not (child := os.fork()):
        os.setresuid(65534, 65534, 65534)
        try:
            RunDirectory(folder).check(config)
        except ConfigError as error:
            os.write(write_end, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    told = os.read(read_end, 10_000).decode()
    os.close(read_end)
    assert str(folder / name) in told
    assert "fix" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "run.dir: '' is empty"),
        ("s3://bucket/run", "run.dir: 's3://bucket/run': only a local path"),
        ("a\0b", "holds a NUL character"),
        ("x" * 300, "a name in it is longer than 255 bytes"),
    ],
)
def test_a_run_dir_that_is_no_folder(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(config_values(tmp_path, run={"dir": text})))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_dir_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config_values(tmp_path, run={"dir": "~/runs/x"})))
    assert load_config("~/config.toml").run.dir == str(tmp_path / "runs/x")


def test_a_run_dir_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.dir = .*file/run' cannot be used \(Not a directory\)"):
        RunDirectory(tmp_path / "file" / "run").check(make_config(tmp_path))


BAD_PATHS = ["", "s3://bucket/x", "x" * 300, "a\0b"]
COMMANDS = [
    ["compare", "{run}", "{run}", "--out", "{bad}"],
    ["report", "{run}", "--out", "{bad}.html"],
    ["report", "{bad}"],
    ["compare", "{bad}", "{bad}"],
    ["audit", "{bad}"],
    ["synth", "{bad}", "--samples", "10"],
    ["import", "kuairand", "{bad}", "out"],
    ["import", "kuairand", "src", "{bad}"],
    ["train", "{bad}"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_path_on_the_command_line(
    dataset: Path,
    tmp_path: Path,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _trained(dataset, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for bad in BAD_PATHS:
        if bad == "" and command[-1] == "{bad}.html":
            continue  # a hidden file is a file
        assert run([part.format(bad=bad, run="trained") for part in command]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def _trained(dataset: Path, tmp_path: Path) -> None:
    """A folder that compare and report take for a run until they write."""
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "config.toml").write_text(tomli_w.dumps(config_values(dataset)))


# ---- damaged text


def test_a_config_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("\ufeff" + tomli_w.dumps(config_values(tmp_path)), encoding="utf-8")
    assert load_config(path) == make_config(tmp_path)
    assert RunDirectory(tmp_path).read_config() == make_config(tmp_path)


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 1500 + "]" * 1500, ".".join("a" * 3000) + " = 1", "a = " + "{a=" * 800 + "1" + "}" * 800]
)
def test_a_config_nested_too_deeply(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    for read in (lambda: load_config(path), RunDirectory(tmp_path).read_config):
        with pytest.raises(ConfigError, match=str(path)) as caught:
            read()
        assert "\n" not in str(caught.value)
    path.write_text(tomli_w.dumps(config_values(tmp_path)))
    with pytest.raises(ConfigError):
        load_config(path, [f"train.samples={'[' * 3000}"])


@pytest.mark.parametrize("line", ["{", "[" * 100_000, "nonsense"], ids=["cut", "deep", "text"])
def test_a_damaged_record_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"samples": 1}) + "\n" + line + "\n" + '{"samp')
    with pytest.raises(ConfigError, match=r"train\.jsonl: line 2 is not a record"):
        read_records(path)
    path.write_text(json.dumps({"samples": 1}) + "\n" + '{"samp')
    assert read_records(path) == [{"samples": 1}]
