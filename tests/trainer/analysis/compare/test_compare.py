"""Runs against a baseline: differences, tables and files, and what cannot be compared."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch

from data.discovery.dataset import read_manifest
from data.manifest import Manifest
from tests.trainer.datasets import config_values
from tests.trainer.test_cli import command
from trainer.analysis.compare.compare import Comparison, Difference, compare_runs
from trainer.analysis.compare.files import curve, json_lines, markdown
from trainer.analysis.compare.table import comparison_grids, comparison_notes
from trainer.cli.app import run
from trainer.config.load import parse_config
from trainer.evaluation.bucket_sums import Buckets, read_buckets, task_buckets, write_buckets
from trainer.evaluation.metrics import MetricSums
from trainer.evaluation.row_buckets import BUCKETS
from trainer.run.directory import RunDirectory

ROWS = 8_000
POINTS = {"2k": 2048, "4k": 4096}


@dataclass
class Runs:
    """Writes folders of runs whose predictions are the labels' true logits and means with noise."""

    folder: Path
    dataset: Path
    manifest: Manifest

    def write(
        self,
        name: str,
        seed: int = 1,
        noise: float = 0.5,
        points: dict[str, int] | None = None,
        fingerprint: str = "f00d",
        labels: int = 0,
        unit: str | None = None,
        train_data: str = "train-1",
        **sections: Any,
    ) -> str:
        """A run's folder. More noise is a worse head; a seed has its own noise; `labels` draws other labels."""
        path = self.folder / name
        values = config_values(self.dataset, **{**sections, "run": {"dir": str(path), "seed": seed}})
        config = parse_config(values | {"model": sections.get("model", values["model"])}, name)
        directory = RunDirectory(path)
        path.mkdir()
        train = replace(self.manifest, fingerprint=train_data)
        directory.create(config, train, self.manifest, {})
        for number, (text, samples) in enumerate((POINTS if points is None else points).items()):
            sums = draw_sums([task.binary for task in config.tasks], labels, (seed, number), noise)
            reached = [] if text == "end" else [text]
            file = directory.path / "evaluations" / f"{samples}.parquet"
            tasks = task_buckets(sums, config.tasks)
            write_buckets(file, Buckets(samples, reached, fingerprint, tasks, unit))
        return str(path)


def draw_sums(binary: list[bool], labels: int, key: tuple[int, ...], noise: float) -> MetricSums:
    """Sums of predictions on the same rows for equal `labels`, however many of the tasks there are."""
    rows, model = np.random.default_rng(labels), np.random.default_rng(key)
    bucket_B = torch.from_numpy(rows.integers(0, BUCKETS, ROWS))
    truth_BT = rows.normal(size=(ROWS, 3))[:, : len(binary)]
    click_BT = rows.random((ROWS, 3))[:, : len(binary)] < 1 / (1 + np.exp(-truth_BT))
    label_BT = np.where(binary, click_BT, truth_BT + rows.normal(size=(ROWS, 3))[:, : len(binary)])
    logits_BT = truth_BT + (noise + 0.005 * model.normal()) * model.normal(size=truth_BT.shape)
    sums = MetricSums(torch.tensor(binary), BUCKETS, bins=2)
    sums.add(*map(torch.from_numpy, (logits_BT, label_BT, np.ones_like(label_BT))), bucket_B)
    return sums


@pytest.fixture
def runs(tmp_path: Path, dataset: Path) -> Runs:
    return Runs(tmp_path, dataset, read_manifest(str(dataset / "train"), None))


BOTTOM = {"model": {"head": "shared_bottom", "levels": [[16]], "tower": [8]}}


def by_place(comparison: Comparison) -> dict[tuple[str, str, str | None], Difference]:
    return {(Path(entry.run).name, entry.task, entry.milestone): entry for entry in comparison.differences}


def test_one_run_against_one(runs: Runs) -> None:
    base, better = runs.write("base", noise=0.8, **BOTTOM), runs.write("better", noise=0.4)
    found = compare_runs(base, [better])
    assert found.warnings == ()
    assert [(entry.task, entry.milestone) for entry in found.differences] == [
        (task, milestone) for task in ("watch", "click", "rare") for milestone in POINTS
    ]
    entry = by_place(found)["better", "click", "2k"]
    old, new = (expected_ne(Path(path) / "evaluations" / "2048.parquet") for path in (base, better))
    assert (entry.baseline_value, entry.value) == (pytest.approx(old), pytest.approx(new))
    assert entry.relative_percent == pytest.approx(100 * (new - old) / old)
    assert entry.low_percent is not None
    assert entry.high_percent is not None
    assert entry.low_percent < entry.relative_percent < entry.high_percent < 0
    assert (entry.head, entry.baseline_head, entry.samples, entry.metric) == ("adatt", "shared_bottom", 2048, "ne")
    assert (entry.seeds, entry.standard_error_percent, entry.significant) == (1, None, None)
    assert by_place(found)["better", "watch", "4k"].metric == "mse"


def expected_ne(file: Path) -> float:
    _, weight, loss, _, label, _ = read_buckets(file).tasks["click"].sums_6K.sum(axis=1)
    rate = label / weight
    return float(loss / weight / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate)))


def test_the_same_training_twice_differs_by_exactly_0(runs: Runs) -> None:
    first, again = runs.write("first", seed=3), runs.write("again", seed=3)
    for other in (again, first):
        for entry in compare_runs(first, [other]).differences:
            assert (entry.relative_percent, entry.low_percent, entry.high_percent) == (0, 0, 0)
            assert entry.significant is None
            assert not entry.one_sided


def test_trained_runs(dataset: Path, tmp_path: Path) -> None:
    """Real trainings: one config and seed trained twice differs by exactly 0."""
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(config_values(dataset, train={"samples": 128}, evaluate={"at_samples": ["64"]})))
    one, again = (str(tmp_path / name) for name in ("one", "again"))
    for path in (one, again):
        assert command("train", str(config), "--set", f"run.dir={path}")[0] == 0
    found = compare_runs(one, [again]).differences
    assert [entry.column for entry in found] == ["64", "128"] * 3
    assert {(entry.relative_percent, entry.low_percent, entry.high_percent) for entry in found} == {(0, 0, 0)}


def test_seeds_are_one_group_and_pair_with_the_seeds_of_the_baseline(runs: Runs) -> None:
    base = [runs.write(f"base-{seed}", seed, 0.8, **BOTTOM) for seed in (1, 2, 3)]
    better = [runs.write(f"better-{seed}", seed, 0.4) for seed in (3, 1, 2)]
    worse = [runs.write(f"worse-{seed}", seed, 1.2, train={"samples": 512}) for seed in (1, 7)]
    found = compare_runs(",".join(base), [worse[0], better[0], better[1], worse[1], better[2]])
    names = list(dict.fromkeys(entry.run for entry in found.differences))
    assert [[Path(path).name for path in name.split(",")] for name in names] == [
        ["worse-1", "worse-7"],
        ["better-1", "better-2", "better-3"],
    ]
    entry = next(entry for entry in found.differences if entry.run == names[1] and entry.task == "click")
    singly = [
        compare_runs(base[seed - 1], [str(runs.folder / f"better-{seed}")]).differences[2].relative_percent
        for seed in (1, 2, 3)
    ]
    assert entry.relative_percent == pytest.approx(np.mean(singly))
    assert entry.standard_error_percent == pytest.approx(np.std(singly, ddof=1) / math.sqrt(3))
    assert (entry.baseline_seeds, entry.seeds, entry.significant) == (3, 3, True)
    unpaired = next(entry for entry in found.differences if entry.run == names[0] and entry.task == "click")
    assert (unpaired.baseline_seeds, unpaired.seeds, unpaired.significant) == (3, 2, True)


def test_the_order_of_runs_changes_no_number(runs: Runs) -> None:
    base, paths = runs.write("base", **BOTTOM), [runs.write(f"run-{seed}", seed) for seed in (1, 2)]
    paths.append(runs.write("other", noise=0.7, train={"samples": 512}))
    one, other = (by_place(compare_runs(base, order)) for order in (paths, paths[::-1]))
    assert sorted(map(repr, one.values())) == sorted(map(repr, other.values()))


def test_what_makes_another_head(runs: Runs) -> None:
    """Not the seed, and nothing that leaves training alone."""
    other, base = runs.write("other", **BOTTOM), runs.write("base", 1)
    free = runs.write("free", 2, log={"every_samples": 128}, checkpoint={"keep": 1}, evaluate={"at_samples": ["1k"]})
    longer = runs.write("longer", 3, train={"samples": 2048})
    batch = runs.write("batch", 4, data={"global_batch_size": 128})
    data = runs.write("data", 5, train_data="train-2")
    found = compare_runs(other, [base, free, longer, batch, data])
    names = dict.fromkeys(entry.run for entry in found.differences)
    assert list(names) == [f"{base},{free}", longer, batch, data]


def test_milestones_meet_by_what_they_count(runs: Runs) -> None:
    """Not by text, nor by the batch boundary on which they fall; the end is its own samples."""
    base = runs.write("base", points={"2k": 2048, "4k": 4096, "end": 5000}, **BOTTOM)
    other = runs.write("other", points={"2_000": 2016, "end": 5000, "8k": 8064})
    found = compare_runs(base, [other])
    places = [(entry.milestone, entry.samples, entry.column) for entry in found.differences if entry.task == "click"]
    assert places == [("2k", 2016, "2k"), (None, 5000, "5k")]
    assert found.warnings == (
        f"milestone 4k is not compared: {base} has it, {other} has not",
        f"milestone 8k is not compared: {other} has it, {base} has not",
    )


def test_a_seed_that_lacks_a_milestone(runs: Runs) -> None:
    base = runs.write("base", **BOTTOM)
    paths = [runs.write("run-1", 1), runs.write("run-2", 2, points={"2k": 2048})]
    found = compare_runs(base, paths)
    assert [entry.seeds for entry in found.differences if entry.task == "click"] == [2, 1]
    assert found.warnings == (f"{paths[1]} lacks milestone 4k; compared without it",)


def test_a_task_that_only_one_has(runs: Runs) -> None:
    tasks = config_values(runs.dataset)["tasks"]
    base, other = runs.write("base", **BOTTOM), runs.write("other", tasks=tasks[:2])
    found = compare_runs(base, [other])
    assert {entry.task for entry in found.differences} == {"watch", "click"}
    assert found.warnings == (f"task rare is not compared: {base} has it, {other} has not",)


def test_labels_all_alike_have_no_ne(runs: Runs) -> None:
    paths = [runs.write("base", **BOTTOM), runs.write("other")]
    for path in paths:
        config = RunDirectory(path).read_config()
        sums = MetricSums(torch.tensor([task.binary for task in config.tasks]), BUCKETS)
        rows = torch.zeros(10, 3), torch.zeros(10, 3), torch.ones(10, 3), torch.arange(10)
        sums.add(*rows)
        for samples, text in ((2048, "2k"), (4096, "4k")):
            file = Path(path) / "evaluations" / f"{samples}.parquet"
            write_buckets(file, Buckets(samples, [text], "f00d", task_buckets(sums, config.tasks)))
    found = compare_runs(paths[0], paths[1:])
    for entry in found.differences:
        assert (entry.relative_percent, entry.low_percent, entry.significant) == (None, None, None)
        assert entry.value == (None if entry.metric == "ne" else 0.0)
    json.loads(json_lines(found)[0], parse_constant=pytest.fail)  # no NaN, which is no JSON
    assert comparison_grids(found.differences)[1].rows[1][2] == "–"


def test_table_with_marks(runs: Runs) -> None:
    base = ",".join(runs.write(f"base-{seed}", seed, 0.8, **BOTTOM) for seed in (1, 2, 3))
    heads = [runs.write(f"run-{seed}", seed, 0.4) for seed in (1, 2, 3)]
    heads += [runs.write(f"same-{seed}", seed, 0.8, train={"samples": 512}) for seed in (4, 5, 6)]
    heads += [runs.write(f"worse-{seed}", seed, 1.4, train={"samples": 256}) for seed in (1, 2, 3)]
    found = compare_runs(base, heads).differences
    grid = comparison_grids(found)[1]
    assert (grid.task, grid.header) == ("click", ["head", "runs", "2k", "4k"])
    assert [row[:2] for row in grid.rows[:2]] == [
        ["shared_bottom", "base-1, base-2, base-3"],
        ["adatt", "run-1, run-2, run-3"],
    ]
    marks = [row[2].split("]")[-1].strip() for row in grid.rows]
    assert marks == [grid.rows[0][2], "better", "", "worse"]
    assert float(grid.rows[0][2]) == pytest.approx(found[2].baseline_value, abs=1e-4)
    assert all("±" in row[3] for row in grid.rows[1:])
    assert not any("lower, higher" in note for note in comparison_notes(found))
    single = compare_runs(base.split(",")[0], [heads[0]]).differences
    assert comparison_grids(single)[1].rows[1][2].endswith("] lower")
    assert "says nothing of the heads" in comparison_notes(single)[-1]


def test_markdown_and_json(runs: Runs) -> None:
    found = compare_runs(runs.write("base", **BOTTOM), [runs.write("other", noise=0.3)])
    lines = markdown(found).splitlines()
    start = lines.index("| head | runs | 2k | 4k |")
    assert lines[start + 1] == "| --- | --- | ---: | ---: |"
    assert lines[start + 2].startswith("| shared_bottom | base |")
    assert lines[start + 3].startswith("| adatt | other |")
    records = [json.loads(line) for line in json_lines(found)]
    assert len(records) == 6
    assert records[0].keys() >= {
        *("baseline", "run", "task", "milestone", "metric", "relative_percent", "low_percent", "high_percent"),
        *("samples", "seeds", "significant"),
    }


def test_command(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    base, other = runs.write("base", **BOTTOM), runs.write("other", noise=0.3)
    out = runs.folder / "new" / "comparison"
    assert run(["compare", base, other, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for text in ("click: NE", "watch: MSE", "shared_bottom", "lower", "2k"):
        assert text in printed.out
    assert {path.name for path in out.iterdir()} == {"compare.md", "compare.json", "click.png", "rare.png", "watch.png"}
    for name in ("click", "rare", "watch"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert run(["compare", base, other, "--json"]) == 0
    assert capsys.readouterr().out == (out / "compare.json").read_text()


def test_warnings_do_not_mix_with_json(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    base, other = runs.write("base", **BOTTOM), runs.write("other", points={"2k": 2048})
    assert run(["compare", base, other, "--json"]) == 0
    printed = capsys.readouterr()
    assert len([json.loads(line) for line in printed.out.splitlines()]) == 3
    assert printed.err.startswith("warning: milestone 4k is not compared")


def assert_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *parts: str) -> None:
    assert run(["compare", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    for part in parts:
        assert part in printed.err


def test_what_cannot_be_compared(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    base = runs.write("base", **BOTTOM)
    tasks = [{"name": "click_2", "kind": "binary", "label": "click"}]
    cases: dict[str, tuple[str, ...]] = {
        runs.write("test-set", fingerprint="beef"): ("another test set", "test-set", "fingerprints beef, f00d"),
        runs.write("later", points={"8k": 8192}): ("no milestone in common (8k; 2k, 4k)",),
        runs.write("untrained", points={}): ("untrained: no evaluation to compare", "train it to a milestone"),
        runs.write("tasks", tasks=tasks): ("no task in common (click_2; watch, click, rare)",),
        runs.write("labels", labels=5): ("task 'watch'", "labels or weights are not those of"),
        str(runs.folder): ("no run here",),
        "nowhere": ("nowhere: no run here",),
    }
    for path, parts in cases.items():
        assert_refused(capsys, [base, path], *parts)
    assert_refused(capsys, [f"{base},{runs.write('other')}", base], "are not seeds of one head")
    assert_refused(capsys, [base, base, base], "have the same config and seed 1: one training, not two")
    assert_refused(capsys, [base], "Missing argument 'RUN'")
    assert_refused(capsys, [f"{base},", base], "holds an empty name")
    assert_refused(capsys, ["", base], "'' holds an empty name")


def test_runs_in_other_buckets_are_not_compared(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    by_row, by_user, by_video = runs.write("row", **BOTTOM), runs.write("user", unit="user"), runs.write("v", unit="v")
    advice = f"evaluate anew: adatt evaluate {by_row} --checkpoint 2048 --unit user"
    assert_refused(capsys, [by_row, by_user], "user was evaluated at 2k by unit 'user'", "independent", advice)
    assert_refused(capsys, [by_user, by_row], "at 2k with rows taken as independent, but", "by unit 'user'", advice)
    assert_refused(capsys, [by_user, by_video], f"adatt evaluate {by_video} --checkpoint 2048 --unit user")


def test_the_unit_is_said_everywhere(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    for unit, told in ((None, "rows taken as independent"), ("user_id", "intervals by user_id")):
        base, other = runs.write(f"base-{unit}", unit=unit, **BOTTOM), runs.write(f"other-{unit}", unit=unit)
        found = compare_runs(base, [other])
        assert {(entry.unit, entry.buckets) for entry in found.differences} == {(unit, BUCKETS)}
        assert all(told in grid.title for grid in comparison_grids(found.differences))
        assert any(told.lower() in note.lower() for note in comparison_notes(found.differences))
        assert told in curve(found, "click").axes[0].get_title()
        assert [json.loads(line)["unit"] for line in json_lines(found)] == [unit] * 6
        assert run(["compare", base, other]) == 0
        assert told in " ".join(capsys.readouterr().out.split())
        metadata = pq.read_schema(Path(base) / "evaluations" / "2048.parquet").metadata
        assert metadata[b"unit"] == (unit or "").encode()


def test_few_units_give_no_interval(runs: Runs) -> None:
    paths = [runs.write("base", unit="user", **BOTTOM), runs.write("other", unit="user", noise=0.7)]
    for path in paths:
        for file in (Path(path) / "evaluations").glob("*.parquet"):
            table = pq.read_table(file)
            few = table.filter(pa.compute.less(table["bucket"], 29))
            pq.write_table(few.replace_schema_metadata({**table.schema.metadata, b"buckets": b"29"}), file)
    found = compare_runs(paths[0], paths[1:])
    assert {entry.low_percent for entry in found.differences} == {None}
    assert found.warnings[0] == (
        "task watch: its rows lie in 29 buckets by unit 'user', or most of its loss in one; an interval takes 30 at "
        "least"
    )


def test_a_training_among_several_is_on_one_side_only(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = (runs.write(f"seed-{seed}", seed=seed) for seed in (1, 2, 3))
    assert_refused(capsys, [f"{one},{two}", two], "seed-2 is the same training as", "leave it out on one side")
    assert_refused(capsys, [one, one, two], "seed-1 is the same training as")
    assert run(["compare", f"{one},{two}", three]) == 0


def test_runs_with_commas_are_those_of_several_arguments(runs: Runs) -> None:
    base, one, two = runs.write("base", **BOTTOM), runs.write("one", seed=1), runs.write("two", seed=2)
    assert compare_runs(base, [f"{one}, {two}"]) == compare_runs(base, [one, two])


def test_rounding_is_no_difference(runs: Runs) -> None:
    first, other = runs.write("first"), runs.write("other")
    for file in (Path(other) / "evaluations").glob("*.parquet"):
        table = pq.read_table(file)
        loss = pa.array(table["loss"].to_numpy() * (1 - 1e-7))
        pq.write_table(table.set_column(table.schema.get_field_index("loss"), "loss", loss), file)
    for entry in compare_runs(first, [other]).differences:
        assert entry.high_percent is not None
        assert -1.1e-5 < entry.high_percent < 0
        assert not entry.one_sided
    grid = comparison_grids(compare_runs(first, [other]).differences)[0]
    assert grid.rows[1][2:] == ["+0.000 [+0.000, +0.000]"] * 2


def test_names_cannot_break_a_table(runs: Runs) -> None:
    base, odd = runs.write("base", **BOTTOM), runs.write("a|b\nc<d")
    lines = markdown(compare_runs(base, [odd])).splitlines()
    assert any("| a\\|b c&lt;d |" in line for line in lines)


def test_curves_of_names_without_glyphs_are_drawn(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    base, odd = runs.write("base", **BOTTOM), runs.write("日本")
    assert run(["compare", base, odd, "--out", str(runs.folder / "out")]) == 0
    assert capsys.readouterr().err == ""
    assert (runs.folder / "out" / "click.png").exists()


def test_buckets_that_are_damaged(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    base = runs.write("base")
    (Path(base) / "evaluations" / "2048.parquet").write_text("mine")
    assert_refused(capsys, [base, base], "2048.parquet", "not the buckets of an evaluation")


def test_out_that_is_a_file(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = runs.write("base"), runs.folder / "mine.txt"
    out.write_text("mine")
    assert_refused(capsys, [base, base, "--out", str(out)], "--out", "mine.txt", "name a folder")
    assert out.read_text() == "mine"
