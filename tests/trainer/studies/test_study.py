"""The studies of `experiments/` in their short form, and what a study promises: equal FLOPs, and that it goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from data.errors import ExpectedError
from data.importers.census import import_census
from data.importers.kuairand import import_kuairand
from experiments.quiet_and_loud import write_rows
from tests.commands import run_command, started_command
from tests.trainer.datasets import config_values, write_dataset
from trainer.cli.studies import _seeds
from trainer.config.load import load_config, toml_value
from trainer.errors import ConfigError, RunError
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.studies.equal_flops import cost_of
from trainer.studies.folder import held_folder, study_folder
from trainer.studies.results import holm
from trainer.studies.run import dry_run_table, run_study
from trainer.studies.study import FILE, Expanded, Variant, read_study, set_options
from trainer.studies.trainings import Training, TrainingProcess
from trainer.studies.tuning import search

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
STUDIES = sorted(path.parent.name for path in EXPERIMENTS.glob(f"*/{FILE}"))
SHARED = Path(__file__).parents[4] / "shared" / "data"
OFFICIAL = {"datasets/studies/census": "census_income_kdd", "datasets/kuairand": "kuairand_pure"}
MOST_VARIANTS = 12
SHORTER = ["train.samples=512", "evaluate.at_samples=[]", "data.global_batch_size=256"]


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory that the studies share, with their datasets."""
    return tmp_path_factory.mktemp("studies")


def expanded(name: str, *changes: str, seeds: tuple[int, ...] = (17,)) -> Expanded:
    folder = str(EXPERIMENTS / name)
    study = read_study(folder)
    if len(study.variants) > MOST_VARIANTS:  # the methods of balancing, which have tests of their own
        needed = {study.baseline, *study.rivals}
        some = [one for index, one in enumerate(study.variants) if index % 5 == 0 or one.name in needed]
        study = study.model_copy(update={"variants": some})
    return Expanded(study, folder, short=True, changes=changes, seeds=seeds)


def make_available(folder: str) -> None:
    """Writes a dataset that no study makes: drawn, or the first rows of the official files, where they are at hand."""
    if folder == "datasets/conflict":
        for part in ("train", "test"):
            write_rows(Path(folder, part, "0.parquet"), 1_000, np.random.default_rng(0))
    if folder not in OFFICIAL or Path(folder).exists():
        return
    source = SHARED / OFFICIAL[folder]
    if not source.exists():
        pytest.skip(f"{source} is not there")
    if "census" in folder:
        import_census(source, Path(folder), halves=True)
    else:
        import_kuairand(source, Path(folder), 2)
    for file in Path(folder).glob("*/*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 1_000), file)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_in_short(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    study = expanded(name, *SHORTER)
    make_available(study.dataset)
    out = work / "runs" / name
    tables = run_study(study, out, 1, 1, f"adatt study experiments/{name}")

    text = (out / "study.md").read_text()
    assert study.study.title in text
    assert all(table.title in text for table in tables)
    records = [json.loads(line) for line in (out / "study.json").read_text().splitlines()]
    ends = {(record["variant"], record["task"]) for record in records if record["kind"] == "end"}
    assert {variant for variant, _ in ends} == set(study.configs)
    assert {task for _, task in ends} == set(next(iter(study.configs.values())).evaluated_tasks)
    assert (out / "study.html").read_text().count("<table") >= len(tables)

    papers = {(variant, paper.task) for paper in study.study.paper for variant in paper.values}
    assert papers <= ends  # no number of the paper is left without ours
    assert study.study.baseline in study.configs


def test_variants_that_differ_in_tasks_and_samples(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    folder = str(EXPERIMENTS / "instrument")
    like = {"name": "like", "kind": "binary", "label": "like", "weight": 1}
    alone = Variant(name="like_alone", set={"tasks": [like]}, set_short={"train.samples": "4k"})
    changes = {"variants": [Variant(name="both"), alone], "baseline": "both"}
    study = read_study(folder).model_copy(update=changes)
    short = Expanded(study, folder, short=True, changes=["data.global_batch_size=256"], seeds=(17, 18))
    ends, *_ = run_study(short, work / "runs" / "ends", 1, 1, "adatt study")

    assert list(ends.header) == ["", "samples", "click NE", "like NE"]
    both_row, alone_row, oracle_row = ends.rows
    assert both_row[:2] == ["both", "8k"]
    assert alone_row[:3] == ["like_alone", "4k", "–"]
    assert oracle_row[:2] == ["oracle", ""]
    for row in (both_row, alone_row):
        mean, _, error = row[3].partition(" ± ")
        assert float(mean) > float(oracle_row[3])
        assert float(error) < 0.1


@pytest.mark.parametrize("name", STUDIES)
def test_heads_that_are_to_cost_the_same_do(name: str) -> None:
    study = expanded(name)
    for variant in study.study.variants:
        if variant.equal_flops_to is not None:
            wanted = cost_of(study.configs[variant.equal_flops_to]).training_flops
            assert cost_of(study.configs[variant.name]).training_flops == pytest.approx(wanted, rel=0.012), variant.name


def test_a_study_that_was_killed_goes_on(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    changes = [part for change in SHORTER for part in ("--set", change)]
    command = ["study", str(EXPERIMENTS / "table6"), "--short", "--parallel", "1", *changes]
    out, whole = tmp_path / "killed", tmp_path / "whole"
    runs = out / "short" / "runs"
    first = runs / "adatt_sp-17.ended.json"

    with started_command(tmp_path, *command, "--out", str(out)) as killed:
        killed.wait_until(first.exists)
        killed.signal(signal.SIGKILL)
        killed.end()
    before = first.stat().st_mtime_ns
    with started_command(tmp_path, *command, "--out", str(out)) as stopped:
        stopped.wait_until((runs / "no_native-17").exists)
        stopped.signal(signal.SIGTERM)
        assert stopped.end() == 75, stopped.errors

    assert run_command(tmp_path, *command, "--out", str(out))[0] == 0
    study = expanded("table6", *SHORTER, seeds=(17, 18))
    run_study(study, whole, 2, 1, "the same, uninterrupted")
    assert first.stat().st_mtime_ns == before
    for name in ("adatt_sp-17", "no_native-17", "adatt_sp-18", "no_native-18"):
        ends = [read_records(RunDirectory(folder / name).evaluations)[-1] for folder in (runs, whole / "runs")]
        assert ends[0]["ne"] == ends[1]["ne"] is not None

    _, runs, ended, *_, hours = dry_run_table(study, out / "short", 2, 1).rows[-1]
    assert (runs, ended, hours) == ("4", "4", "0.00")


@given(st.dictionaries(st.tuples(st.text(max_size=2), st.just("task")), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_definition_rejects(p_values: dict[tuple[str, str], float]) -> None:
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected: set[tuple[str, str]] = set()
        for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):  # stop at the first that holds
            if p_values[key] > level / (len(p_values) - place):
                break
            rejected.add(key)
        close = {key for key, value in corrected.items() if abs(value - level) < 1e-12}
        assert {key for key, value in corrected.items() if value <= level} | close == rejected | close


STUDY = """
title = "t"
config = "config.toml"
seeds = [1]
baseline = "a"
[dataset]
folder = "nowhere"
[[variants]]
name = "a"
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("seeds = [1]", "seeds = []"), "seeds = []"),
        (("seeds = [1]", "seeds = [1, 1]"), "different numbers"),
        (('baseline = "a"', 'baseline = "b"'), "baseline = 'b' is no variant; choose from a"),
        (('name = "a"', 'name = "a"\nequal_flops_to = "c"'), "equal_flops_to = 'c'"),
        (
            ('name = "a"', 'name = "a"\n[[paper]]\ntitle = "T"\ntask = "t"\ncolumns = []\nvalues = { d = [1] }'),
            "paper.values = 'd'",
        ),
        (('name = "a"', 'name = "a"\n[[variants]]\nname = "a"'), "two variants are called 'a'"),
        (('title = "t"', 'titel = "t"'), "title"),
        (('title = "t"', "title = t"), "not valid TOML"),
        (('name = "a"', 'name = "../a"'), "variants.0.name"),
        (('name = "a"', 'name = ".."'), "variants.0.name"),
        (('name = "a"', 'name = "a"\n[[variants]]\nname = "b c"\n[[variants]]\nname = "b_c"'), "are called 'b c'"),
        (('name = "a"', 'name = "a"\nequal_flops_to = "a"'), "'a' has an equal_flops_to itself"),
        (("seeds = [1]", "seeds = [-1]"), "seeds.0"),
        (("seeds = [1]", 'seeds = [1]\nvariants_from = "study.toml/x"'), "study.toml/x: cannot be read"),
        (("seeds = [1]", 'seeds = [1]\nvariants_from = "config.toml"'), "config.toml: no such file"),
        (('"nowhere"', '"s3://nowhere"'), "dataset.folder"),
        (('"nowhere"', '""'), "dataset.folder"),
        (('[[variants]]\nname = "a"', "variants = 3"), "dataset.variants"),
        (('name = "a"', 'name = "a"\n[grid]\nsamples = 1\nvalues = {}'), "grid.values"),
        (('name = "a"', 'name = "a"\n[grid]\nsamples = 1\nvalues.x = []'), "grid.values.x"),
    ],
)
def test_a_study_that_cannot_be_read(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    (tmp_path / FILE).write_text(STUDY.replace(*change))
    with pytest.raises(ConfigError) as error:
        read_study(str(tmp_path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_shared_variants_that_are_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(STUDY.replace("seeds", 'variants_from = "shared.toml"\nseeds'))
    (tmp_path / "shared.toml").write_text("variants = 3")
    with pytest.raises(ConfigError, match=r"shared\.toml: no \[\[variants\]\]"):
        read_study(str(tmp_path))


TEXTS = st.text(st.characters(exclude_characters="\x7f", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.dates() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.é ", min_size=1), inner, max_size=3),
    max_leaves=4,
)


@given(VALUES)
def test_values_of_a_study_are_what_set_reads(value: object) -> None:
    (option,) = set_options({"data.train": value})
    assert toml_value(option.removeprefix("data.train=")) == value


def own_study(folder: Path, dataset: Path, *changes: str, **settings: Any) -> Expanded:
    """Two variants, the second at the FLOPs of the first."""
    (folder / "config.toml").write_text(tomli_w.dumps(config_values(dataset, train={"samples": 512})))
    variants = [
        {"name": "a 1", "set": {"model": {"head": "shared_bottom", "levels": [[8], [4]], "tower": [4]}}},
        {"name": "b", "equal_flops_to": "a 1", "set": {"model": {"head": "mmoe", "levels": [[8], [4]], "experts": 2}}},
    ]
    values = {"title": "t", "config": "config.toml", "seeds": [1, 2], "baseline": "a 1", "variants": variants}
    (folder / FILE).write_text(tomli_w.dumps({**values, "dataset": {"folder": str(dataset)}, **settings}))
    return Expanded(read_study(str(folder)), str(folder), short=False, changes=changes, seeds=())


def test_changes_of_the_user_come_before_the_width(tmp_path: Path, dataset: Path) -> None:
    study = own_study(tmp_path, dataset, "model.levels=[[32], [16]]", "model.tower=[]")
    for variant, config in study.configs.items():
        assert load_config(study.config_file, study.changes(variant)).model == config.model
    costs = [cost_of(config).training_flops for config in study.configs.values()]
    assert costs[1] == pytest.approx(costs[0], rel=0.1)


def test_what_the_grid_chose_is_what_the_page_shows(tmp_path: Path, dataset: Path) -> None:
    study = own_study(tmp_path, dataset)
    study.choose("b", {"model.experts": "3"})
    assert study.configs["b"].model.model_dump()["experts"] == 3
    assert load_config(study.config_file, study.changes("b")).model == study.configs["b"].model


def test_trials_of_all_variants_share_the_places(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    write_dataset(data / "validation", 101, seed=3)
    begun: list[TrainingProcess] = []
    at_once = []

    class Counted(TrainingProcess):
        def __init__(self, training: Training, out: Path) -> None:
            super().__init__(training, out)
            begun.append(self)
            at_once.append(sum(each.is_alive for each in begun))

    monkeypatch.setattr(search, "TrainingProcess", Counted)
    grid = {"samples": 256, "values": {"optimizer.dense.learning_rate": [0.001, 0.01]}}
    study = own_study(tmp_path, data, "data.global_batch_size=128", grid=grid, seeds=[1])
    run_study(study, tmp_path / "out", 4, 1, "adatt study")

    assert at_once[2] == 3  # the second variant's first, beside the first's two
    assert "of 4 trials of the grid" in capsys.readouterr().err
    rates = {config.optimizer.dense.learning_rate for config in study.configs.values()}
    assert rates <= {0.001, 0.01}


def test_a_variant_that_diverges_is_left_out(tmp_path: Path, dataset: Path) -> None:
    variants = [
        {"name": name, "set": {"optimizer.dense.learning_rate": rate, "model": {"head": "shared_bottom"}}}
        for name, rate in (("a 1", 1e-3), ("b", 1e30))
    ]
    study = own_study(tmp_path, dataset, "data.global_batch_size=128", metric="auc", seeds=[1], variants=variants)
    with pytest.raises(RunError, match=r"1 of 2 trainings failed: b-1: .* not finite .* without the variants") as error:
        run_study(study, tmp_path / "out", 2, 1, "adatt study")

    assert "\n" not in str(error.value)
    page = (tmp_path / "out" / "study.md").read_text()
    assert "| a 1 |" in page
    assert "| b |" not in page


@pytest.mark.parametrize(
    ("changes", "settings", "says"),
    [
        (["run.seed=3"], {}, "--set run.seed=… has no effect in this study; use --seeds"),
        (["run.dir=x"], {}, "run.dir"),
        (
            ["model.dropout=0.1"],
            {"grid": {"samples": 256, "values": {"model.dropout": [0.0, 0.1]}}},
            "the grid chooses",
        ),
        ([], {"metric": "auc", "set": {"tasks": [{"name": "w", "kind": "regression", "label": "watch"}]}}, "binary"),
    ],
)
def test_a_study_that_would_say_nothing(
    tmp_path: Path, dataset: Path, changes: list[str], settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        own_study(tmp_path, dataset, *changes, **settings)


@pytest.mark.parametrize("text", ["17,17", "17,017", "17, 17", "-1", "abc", "", "1.5", "9" * 5000])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(ExpectedError, match="--seeds"):
        _seeds(text)


@pytest.mark.parametrize("name", ["", "config.toml", "notes.txt", "runs/ and optuna.db"])
def test_folders_that_a_study_does_not_take(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    for part in name.split(" and "):
        path = out / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if part.endswith("/") else path.touch()
    with pytest.raises(ConfigError, match="--out"):
        study_folder(out, short=False)


def test_one_study_at_a_time(tmp_path: Path) -> None:
    code = f"from trainer.studies.folder import *; held_folder(Path({str(tmp_path)!r}), 'study').__enter__()"
    with held_folder(tmp_path, "study"):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert "a study is under way in it" in second.stderr


def test_data_that_only_the_user_can_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = run_command(tmp_path, "study", str(EXPERIMENTS / "table5_6"), "--short", "--out", "out")
    assert code == 2
    assert errors.startswith("error: ")
    assert "adatt import census SRC datasets/studies/census --halves" in errors
    assert not Path("out").exists()
    assert os.listdir(tmp_path / "datasets") == [] if (tmp_path / "datasets").exists() else True


def test_a_comment_in_the_config_repeats_no_training(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('[train]\nsamples = "1k"\n[run]\nseed = 3\n')
    second.write_text('# said anew\n[run]\nseed = 4  # as it was\n[train]\nsamples = "1k"\n')
    one = Training("a", str(first), (), 1000)
    assert one.digest == Training("b", str(second), ("run.seed=3",), 1000).digest
    assert one.digest != Training("a", str(second), (), 1000).digest
