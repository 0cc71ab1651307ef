"""A search finds the best of a grid, ends trials that are behind, goes on after a kill, and refuses what cannot be."""

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from data.discovery.source import source_of
from data.errors import ExpectedError
from tests.commands import started_command
from tests.trainer.datasets import config_values, write_dataset
from trainer.config.load import load_config
from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import whole_lines
from trainer.run.records import Evaluation
from trainer.studies.tuning import checks
from trainer.studies.tuning import store as tuning_store
from trainer.studies.tuning.checks import Search, checked
from trainer.studies.tuning.output import TuningDisplay, train_command, write_tuning
from trainer.studies.tuning.search import Status, tune
from trainer.studies.tuning.space import parse_space
from trainer.studies.tuning.trials import metrics_by_samples, objective_of

SAMPLES = 512
DENSE, SPARSE = "optimizer.dense.learning_rate", "optimizer.sparse.learning_rate"
GRID = f"{SPARSE}=0.2,0.02,1e5"


@pytest.fixture(scope="session")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation") / "valid"
    write_dataset(folder, 301, seed=3)
    return folder


@pytest.fixture
def config(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Path of a config; the working directory is one that nothing has been written to."""
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(config_values(dataset, train={"samples": SAMPLES})))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which a search sets for its trials
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return str(path)


def make_search(config: str, validation: Path, *grids: str, **others: Any) -> Search:
    return Search(config, others.pop("changes", ()), parse_space(grids, []), source_of(str(validation)), **others)


def num_starts(out: Path, trial: int) -> int:
    return len(whole_lines(RunDirectory(out / "runs" / f"trial-{trial:03d}").segments))


def test_a_grid_finds_its_best(
    config: str, validation: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = make_search(config, validation, f"{DENSE}=1000.0,0.001", f"{SPARSE}=0.2,1e5", prune=False)
    out, seen = Path("search"), list[Status]()
    with TuningDisplay() as display:

        def show(status: Status) -> None:
            seen.append(status)
            display(status)

        tuning = tune(search, out, parallel=2, threads=1, progress=show)
    assert "0 of 4 trials · ETA" in capsys.readouterr().err

    best = tuning.best
    assert best.values == {DENSE: "0.001", SPARSE: "0.2"}
    assert sorted(trial.number for trial in tuning.trials) == [0, 1, 2, 3]
    assert [trial.state for trial in tuning.trials] == ["complete", "complete", "failed", "failed"]
    assert all("not finite" in trial.reason for trial in tuning.trials[2:])
    logs = [math.log(value) for of_task in best.metrics.values() for value in of_task.values()]
    assert best.objective == pytest.approx(sum(logs) / 3)
    assert (best.samples, list(best.metrics)) == (SAMPLES, ["watch", "click", "rare"])
    assert (seen[-1].ended, seen[-1].samples, seen[-1].best) == (4, 4 * SAMPLES, best.objective)

    run = RunDirectory(best.run).read_config()
    assert run.data.test == str(validation)
    write_tuning(tuning, search, out)
    applied = load_config(out / "best.toml")
    assert (applied.optimizer.sparse.learning_rate, applied.data.test) == (0.2, str(dataset / "test"))
    assert train_command(search, best).endswith(f"--set {DENSE}=0.001 --set {SPARSE}=0.2")
    assert json.loads((out / "tune.json").read_text().splitlines()[0]) == best.record()
    assert (out / "tune.md").read_text().count("not finite") == 2

    assert tune(search, out, parallel=2, threads=1, progress=seen.append) == tuning
    assert num_starts(out, best.number) == 1


def test_a_trial_that_is_behind_is_pruned(config: str, validation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_store, "STARTUP_TRIALS", 1)
    changes = ("train.samples=3200", 'evaluate.at_samples=["128"]', "run.seed=18")
    search = make_search(config, validation, f"{SPARSE}=0.2,1e5", changes=changes)
    tuning = tune(search, Path("search"), parallel=1, threads=1, progress=lambda _: None)
    first, second = tuning.trials

    assert (first.number, first.state, first.samples) == (0, "complete", 3200)
    assert (second.number, second.state, second.values) == (1, "pruned", {SPARSE: "1e5"})
    assert (second.objective, second.samples) == (None, 128)


def test_a_search_that_was_stopped_and_killed_goes_on(config: str, validation: Path, tmp_path: Path) -> None:
    out, grid, often = Path("search").absolute(), f"{SPARSE}=0.2,0.02", "checkpoint.every_samples=128"
    words = ["tune", config, "--validation", str(validation), "--out", str(out), "--grid", grid, "--set", often]

    def under_way(trial: int) -> Callable[[], bool]:
        return lambda: any((out / "runs" / f"trial-{trial:03d}" / "checkpoints").glob("[0-9]*"))

    with started_command(tmp_path, *words) as search:
        search.wait_until(under_way(0))
        search.signal(signal.SIGTERM)
        assert search.end() == 75
    with started_command(tmp_path, *words) as search:
        search.wait_until(under_way(1))
        search.signal(signal.SIGKILL)
        search.end()
    search_now = make_search(config, validation, grid, changes=(often,))
    trials = tune(search_now, out, 1, 1, lambda _: None).trials

    assert [trial.values for trial in trials] == [{SPARSE: "0.2"}, {SPARSE: "0.02"}]
    assert sorted(trial.number for trial in trials) == [0, 1]
    assert all((trial.state, trial.samples) == ("complete", SAMPLES) for trial in trials)
    assert [num_starts(out, trial) for trial in (0, 1)] == [2, 2]

    others = {
        "config": replace(search_now, changes=("run.seed=3",)),
        "choice of pruning": replace(search_now, prune=False),
        "--grid or --range": replace(search_now, space=parse_space([f"{SPARSE}=0.2"], [])),
    }
    for part, other in others.items():
        with pytest.raises(ConfigError, match=f"holds a search with another {part}"):
            tune(other, out, 1, 1, lambda _: None)


def test_a_later_version_with_other_defaults_goes_on_with_a_search(
    config: str, validation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, load = make_search(config, validation, f"{SPARSE}=0.2,0.02"), checks.load_config

    def load_later(path: str, changes: list[str]) -> Config:
        now = load(path, changes)
        return now.model_copy(update={"run": now.run.model_copy(update={"seed": now.run.seed + 1})})

    before = checks.checked(search, Path("search")).marks
    monkeypatch.setattr(checks, "load_config", load_later)
    assert checks.checked(search, Path("search")).marks == before


@pytest.mark.parametrize(
    ("grids", "ranges", "part"),
    [
        ([], [], "nothing to search"),
        (["a=1"], [], "a trial with a=1 cannot be: .*unknown key 'a'"),
        ([f"{DENSE}s=1"], [], "unknown key .* did you mean 'learning_rate'"),
        ([f"{DENSE}=0.1,-1"], [], "a trial with .*=-1 cannot be"),
        ([f"{DENSE}="], [], "write KEY=V1,V2"),
        ([f"{DENSE}=1,,2"], [], "a value is empty"),
        ([f"{DENSE}=0.1,1e-1"], [], "1e-1 appears twice"),
        ([f"{DENSE}=1", f"{DENSE}=2"], [], "twice; name it once"),
        ([f"{DENSE}=1"], [f"{DENSE}=1:2"], "twice; name it once"),
        (["run.dir=a,b"], [], "run.dir cannot be searched"),
        ([], ["data.test=1:2"], "data.test cannot be searched"),
        ([], [f"{DENSE}=2:1"], "2 is not below 1"),
        ([], [f"{DENSE}=1:1"], "1 is not below 1"),
        ([], [f"{DENSE}=0:1:log"], "begins above 0, not at 0"),
        ([], [f"{DENSE}=1:2:lin"], "write KEY=LOW:HIGH"),
        ([], [f"{DENSE}=1"], "write KEY=LOW:HIGH"),
        ([], [f"{DENSE}=0.1:inf"], "finite numbers"),
        ([], [f"{DENSE}=-1:1"], "a trial with .*=-1 cannot be"),
        ([f"{DENSE}=" + ",".join(map(str, range(1, 1002)))], [], "1,001 combinations"),
    ],
)
def test_what_cannot_be_searched(config: str, validation: Path, grids: list[str], ranges: list[str], part: str) -> None:
    with pytest.raises(ExpectedError, match=part):
        checked(Search(config, (), parse_space(grids, ranges), source_of(str(validation))), Path("search"))
    assert not list(Path().iterdir())


def test_a_search_that_cannot_be(config: str, validation: Path, dataset: Path) -> None:
    def refused(part: str, out: str = "search", data: Path = validation, **others: Any) -> None:
        before = sorted(Path().glob("**/*"))
        with pytest.raises(ExpectedError, match=part):
            tune(make_search(config, data, GRID, **others), Path(out), 1, 1, lambda _: None)
        assert sorted(Path().glob("**/*")) == before

    refused("is data.test, the config's own test set", data=dataset / "test")
    refused("is data.test, the config's own test set", data=Path(f"{dataset}/./test/"))
    refused("is data.train", data=dataset / "train")
    refused("--validation: .*nowhere", data=Path("nowhere"))
    refused("needs at least one", trials=0)
    refused("checkpoint.dir", changes=("checkpoint.dir=elsewhere",))
    refused("train.samples = 9000 exceeds", changes=("train.samples=9000",))

    Path("file").touch()
    refused("is a file; name a folder", out="file")
    refused("is a file; name a folder", out="file/below")
    Path("link").symlink_to("nowhere")
    refused("cannot be used", out="link")
    Path("run").mkdir()
    Path("run", "config.toml").touch()
    refused("is the folder of a run", out="run")
    Path("run", "config.toml").rename("run/notes")
    refused("is not empty and holds no search", out="run")
    Path("run", "notes").rename("run/lock")
    Path("run", "optuna.db").write_text("no database")
    refused("optuna.db: cannot be used", out="run")


def test_values_with_commas_and_ranges_of_whole_numbers() -> None:
    space = parse_space(["model.levels=[[16],[8]], [[32], [8]]", "data.order='a,b',stored"], ["train.patience=1:4"])
    levels, order = space.choices
    assert levels.values == ("[[16],[8]]", "[[32], [8]]")
    assert order.values == ("'a,b'", "stored")
    assert space.ranges[0].ends == ("1", "4")
    assert (space.num_points, space.num_ends) == (None, 8)


def test_the_objective_counts_whole_evaluations() -> None:
    def record(task: str, kind: Any, samples: int, **metrics: Any) -> Evaluation:
        return Evaluation(task=task, kind=kind, samples=samples, examples=1, **metrics)

    records = [
        record("click", "binary", 100, ne=0.5, milestone="96"),
        record("watch", "regression", 100, mse=7.0, nmse=0.25, milestone="96"),
        record("watch", "regression", 100, mse=7.0, nmse=9.0, milestone="96", by="tab", value=1),
        record("click", "binary", 200, ne=0.5),
    ]
    metrics = metrics_by_samples(records, ["click", "watch"])
    assert metrics == {96: {"click": {"ne": 0.5}, "watch": {"nmse": 0.25}}}
    assert objective_of(metrics[96]) == pytest.approx(math.log(0.125) / 2)
    assert math.isnan(objective_of({"click": {"ne": math.inf}}))
    assert math.isnan(objective_of({}))
