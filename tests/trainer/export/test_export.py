"""`adatt export` from end to end: its files, what runs with them, and what it refuses."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from jsonschema import validate
from safetensors.numpy import load_file

from tests.commands import started_command
from tests.ranks import run_on_ranks
from tests.trainer.export.logs import config_of
from tests.trainer.training import train_or_explain
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.places import checkpoint_folder
from trainer.checkpoint.state import State
from trainer.checkpoint.trained_run import open_trained_run
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.export.folder import complete_at_once
from trainer.export.program import check_room
from trainer.export.tables import create_file
from trainer.run.directory import RunDirectory

BARE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("trainer", "models", "data", "torchrec", "fbgemm_gpu", "pyarrow", "xxhash"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Refused())
sys.path.insert(0, ".")
import score
"""


def export(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `adatt export` in a folder."""
    with started_command(folder.parent, "export", *arguments, prepare=partial(os.chdir, folder)) as command:
        return command.end(), command.out, command.errors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder; what commands say lies beside it."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def bare(folder: Path, code: str) -> str:
    """Standard output of a program in the folder of an export that can import neither this project nor its libraries
    but torch and numpy.
    """
    command = [sys.executable, "-E", "-s", "-B", "-c", BARE + code]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "work"
    folder.mkdir()
    code, out, errors = export(folder, str(run), "--out", "new")
    assert code == 0, errors
    assert "300 rows differ from `adatt predict` by " in out
    return folder / "new"


@pytest.fixture(scope="module")
def older(run: Path, exported: Path) -> Path:
    code, _, errors = export(exported.parent, str(run), "--out", "old", "--checkpoint", "256")
    assert code == 0, errors
    return exported.parent / "old"


EXAMPLES = """
import json, pathlib, tempfile
model = score.Model()
text = pathlib.Path("examples.jsonl").read_text(encoding="utf-8")
examples = [json.loads(line) for line in text.splitlines()]
rows = [example["row"] for example in examples]
result = {"check": score.check(model)}
result["sizes"] = [len(model.predict((50 * rows)[:count])["click"]) for count in (0, 1, 7, 4096)]

score.HERE = pathlib.Path(tempfile.mkdtemp(dir=FOLDER))
def changed(change):
    one, *others = json.loads(json.dumps(examples))
    change(one)
    (score.HERE / "examples.jsonl").write_text("\\n".join(map(json.dumps, [one, *others])))
    try:
        return str(score.check(model))
    except ValueError as error:
        return str(error)
result["changed"] = [
    changed(lambda one: one["ids"]["tags"].append(3)),
    changed(lambda one: one["ids"]["user and word"].pop()),
    changed(lambda one: one["predictions"].update(click=float("nan"))),
    changed(lambda one: one["predictions"].update(click=0.5)),
]
print(json.dumps(result))
"""


def test_the_examples_are_scored_without_this_program(exported: Path, folder: Path) -> None:
    result = json.loads(bare(exported, f"FOLDER = {str(folder)!r}\n{EXAMPLES}"))
    assert result["check"] <= 1e-6
    assert result["sizes"] == [0, 1, 7, 4096]
    more, fewer, unknown, unlike = result["changed"]
    assert (more, fewer) == tuple(f"example 0: feature {name!r} has other ids" for name in ("tags", "user and word"))
    assert unknown == "inf"
    assert float(unlike) > 1e-6


def test_lines_go_through_the_script_until_one_is_wrong(exported: Path) -> None:
    examples = [json.loads(line) for line in (exported / "examples.jsonl").read_text().splitlines()]
    assert len(examples) == 100
    lines = "".join(json.dumps(example["row"], ensure_ascii=False) + "\n" for example in examples)
    wrong = json.dumps({**examples[0]["row"], "word": 7})
    command = [sys.executable, "-X", "utf8=0", "score.py"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        command, cwd=exported, input=(41 * lines + wrong).encode(), env=environment, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.decode().startswith("error: after 4096 rows, row 4: feature 'word': column 'word' holds 7, but")
    scored = done.stdout.splitlines()
    assert len(scored) == 4096
    for line, example in zip(scored, examples, strict=False):
        assert json.loads(line) == pytest.approx(example["predictions"], abs=1e-6)


@pytest.fixture(scope="module")
def delta(run: Path, exported: Path) -> Path:
    """From `older` to `exported`."""
    code, _, errors = export(exported.parent, str(run), "--out", "delta", "--since", "256")
    assert code == 0, errors
    return exported.parent / "delta"


def test_the_examples_hold_hard_cases(exported: Path) -> None:
    rows = [json.loads(line)["row"] for line in (exported / "examples.jsonl").read_text().splitlines()]
    words = {row["word"] for row in rows}
    assert None in words
    assert "推荐" in words
    assert "only 2" in words  # the training data has no such word
    assert [] in [row["tags"] for row in rows]
    assert None in [row["tags"] for row in rows]
    assert "NaN" in [row["price"] for row in rows]


def test_its_files(run: Path, exported: Path) -> None:
    recipe = json.loads((exported / "features.json").read_text())
    validate(recipe, json.loads((exported / "features.schema.json").read_text()))
    manifest = json.loads((exported / "manifest.json").read_text())
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == names - {"manifest.json"}
    evaluated = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert manifest["evaluations"] == {
        record["task"]: record["ne"] or record["mse"] for record in evaluated if record["samples"] == 512
    }
    assert manifest["run"] == (run / "identity").read_text().strip()
    code, out, _ = export(exported.parent, "--verify", "new")
    assert (code, out) == (0, f"new: {len(names) - 1} files are as they were written\n")


def test_tables_are_read_by_other_programs(exported: Path) -> None:
    for name in ("users", "words"):
        weight = load_file(exported / "tables" / f"{name}.safetensors")["weight"]
        table = pq.read_table(exported / "tables" / f"{name}.parquet")
        assert table["row"].to_pylist() == list(range(len(weight)))
        assert np.array_equal(np.stack(table["vector"].to_numpy()), weight)
    ids = table["id"].to_pylist()
    assert ids[:3] == [None] * 3
    assert {"home", "推荐", "🎬🍿"} <= set(ids)


def test_a_delta_turns_the_older_export_into_the_newer(exported: Path, older: Path, delta: Path, folder: Path) -> None:
    code, _, errors = export(folder, str(older), "--apply", str(delta), "--out", "applied")
    assert code == 0, errors
    assert unlike_files(exported, folder / "applied") == []
    assert json.loads((exported / "manifest.json").read_text())["evaluations_as_served"] == {}


@pytest.mark.parametrize(("tables", "dtype"), [("float16", np.float16), ("int8", np.uint8)])
def test_smaller_tables(run: Path, folder: Path, tables: str, dtype: type[np.generic]) -> None:
    code, _, errors = export(folder, str(run), "--out", "new", "--tables", tables, "--max-ne-change", "5")
    assert code == 0, errors
    assert load_file(folder / "new" / "tables" / "users.safetensors")["weight"].dtype == dtype
    manifest = json.loads((folder / "new" / "manifest.json").read_text())
    assert manifest["largest_difference"] <= 1e-6
    assert list(manifest["evaluations_as_served"]) == ["click", "watch"]


def unlike_files(one: Path, other: Path) -> list[str]:
    """Files that only one of two folders has, or that differ."""
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (one, other)]
    _, unlike, errors = filecmp.cmpfiles(one, other, names[0] & names[1], shallow=False)
    return [*(names[0] ^ names[1]), *unlike, *errors]


def _save_again(world: World, run: str, copy: str) -> None:
    """Loads the newest checkpoint of a run and saves it as that of its copy."""
    trained = open_trained_run(run, world)
    state = trained.find_checkpoint("latest")
    sharded = trained.load(state)
    checkpoints = Checkpoints(checkpoint_folder(RunDirectory(copy), trained.config), world)
    assert checkpoints.save(sharded, state, 3, lambda *_: None) is None
    assert checkpoints.finish() is None


def test_ranks_make_no_difference(log: Path, folder: Path) -> None:
    config = config_of(log, run={"dir": str(folder / "run")}, sharding={"allow": ["row_wise"]})
    assert run_on_ranks(4, train_or_explain, config) == [None] * 4
    shutil.copytree(folder / "run", folder / "copy")
    shutil.rmtree(folder / "copy" / "checkpoints" / "512")
    run_on_ranks(1, _save_again, str(folder / "run"), str(folder / "copy"))
    files = [len(list((folder / name / "checkpoints" / "512").glob("*.distcp"))) for name in ("run", "copy")]
    assert files[0] > files[1]
    for name in ("run", "copy"):
        code, _, errors = export(folder, name, "--out", f"of {name}")
        assert code == 0, errors
    assert unlike_files(folder / "of run", folder / "of copy") == []


def refusal(folder: Path, *arguments: str) -> str:
    """The message of a command that ends with exit code 2, and has written nothing."""
    before = sorted(folder.rglob("*"))
    code, _, errors = export(folder, *arguments)
    assert code == 2, errors
    assert sorted(folder.rglob("*")) == before
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    return line


def test_what_is_refused(run: Path, exported: Path, older: Path, delta: Path, folder: Path) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    assert "--out full: is not empty" in refusal(folder, str(run), "--out", "full")
    assert "no checkpoint of " in refusal(folder, str(run), "--out", "new", "--checkpoint", "300")
    assert "no checkpoint" in refusal(folder, str(run), "--out", "new", "--since", "last week")
    assert "full: no manifest.json is here" in refusal(folder, "--verify", "full")
    assert "name a run and where to write" in refusal(folder, str(run))
    assert "give one of them at a time" in refusal(folder, str(older), "--apply", str(delta), "--verify", str(exported))
    assert "--where chooses partitions of --data" in refusal(folder, str(run), "--out", "new", "--where", "dt > 3")
    assert "--out .: is the current folder" in refusal(folder, str(run), "--out", ".")
    (folder / "link").symlink_to("behind the link")
    tables = ("--tables", "int8", "--max-ne-change", "0.000001")
    refused = refusal(folder, str(run), "--out", "new/one", *tables)
    assert "more than --max-ne-change 1e-06; nothing was written" in refused
    shutil.copytree(delta, folder / "delta")
    apply = ("--apply", "delta", "--out", "new")
    assert export(folder, str(older), "--apply", "delta", "--out", "link")[0] == 0
    assert (folder / "behind the link" / "manifest.json").is_file()
    assert "at 512 samples with float32 tables, but the delta changes" in refusal(folder, str(exported), *apply)
    damaged = folder / "damaged"
    shutil.copytree(older, damaged)
    (damaged / "tables" / "users.safetensors").write_bytes(b"")
    assert "users.safetensors: is not as it was exported" in refusal(folder, "--verify", "damaged")
    assert "users.safetensors: is not as it was exported" in refusal(folder, "damaged", *apply)
    (damaged / "tables" / "users.safetensors").unlink()
    assert "users.safetensors: is missing" in refusal(folder, "--verify", "damaged")
    manifest = (damaged / "manifest.json").read_text()
    (damaged / "manifest.json").write_text(manifest.replace('"model.pt2"', '"../model.pt2"'))
    assert "is no path inside the folder" in refusal(folder, "--verify", "damaged")
    (folder / "delta" / "score.py").write_text("")
    assert "score.py: is not as it was exported" in refusal(folder, str(older), *apply)


def test_a_run_in_bf16_is_exported_in_float32(run: Path, exported: Path, folder: Path) -> None:
    """A run that says so, since no CPU trains in bf16."""
    shutil.copytree(run, folder / "run")
    config = folder / "run" / "config.toml"
    config.write_text(config.read_text().replace('precision = "float32"', 'precision = "bf16"'))
    path = folder / "run" / "checkpoints" / "512" / "state.json"
    state = State.from_json(path.read_text())
    state.config["train"]["precision"] = "bf16"
    path.write_text(state.to_json())
    code, _, errors = export(folder, "run", "--out", "new")
    assert code == 0, errors
    assert (folder / "new" / "model.pt2").read_bytes() == (exported / "model.pt2").read_bytes()


def test_a_damaged_checkpoint(run: Path, folder: Path) -> None:
    shutil.copytree(run, folder / "run")
    path = next((folder / "run" / "checkpoints" / "512").glob("*.distcp"))
    path.write_bytes(path.read_bytes()[:-1])
    message = refusal(folder, "run", "--out", "new", "--checkpoint", "512")
    assert path.name in message


def test_a_table_takes_its_blocks_of_the_disk_at_once(tmp_path: Path) -> None:
    """Of a file with holes, mapped into memory, a full disk would end the process by SIGBUS."""
    create_file(tmp_path / "table", {"weight": ("float32", (1000, 1000))})
    assert (tmp_path / "table").stat().st_blocks * 512 >= 4_000_000


def test_a_full_disk_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fill() -> None:
        with complete_at_once(tmp_path / "a" / "new") as folder:
            check_room(folder, 1 << 20)

    fill()
    assert (tmp_path / "a" / "new").is_dir()
    shutil.rmtree(tmp_path / "a")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(RunError, match="No space left on device; make room"):
        fill()
    assert list(tmp_path.iterdir()) == []
