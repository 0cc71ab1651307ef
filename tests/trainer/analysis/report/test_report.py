"""The HTML report: its numbers, what it says of what is missing, and how it looks in a real browser."""

import json
import math
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import assume, given
from hypothesis import strategies as st

from data.discovery.dataset import read_manifest
from data.storage.manifest_file import save_manifest
from tests.browser import CHROMIUM, Page, browser_page
from tests.jsonl import append_lines
from tests.trainer.datasets import config_values
from trainer.analysis.compare.compare import compare_runs
from trainer.analysis.report.charts import Chart, line_chart
from trainer.analysis.report.lines import Line
from trainer.analysis.report.report import write_report
from trainer.analysis.report.run_records import read_all_records
from trainer.analysis.report.ticks import tick_texts, ticks
from trainer.analysis.report.timeline import timeline
from trainer.cli.app import run
from trainer.config.compatibility import plain
from trainer.config.load import parse_config
from trainer.run.jsonl import read_records, rewrite_records

BUCKETS, ROWS = 256, 40
"""Of the test set, and test rows in each of them."""
MILESTONES = {"300k": 301_056, "600k": 602_112, "900k": 901_120}
BASE = {"watch": 0.62, "click": 0.88, "rare": 0.93}
"""MSE, NE, NE after 300k samples."""
VOID = {"meta", "wbr"}
BLOCKS = {"h1", "h2", "h3", "td", "th", "p", "li", "div", "small", "a", "summary", "text"}


def write_run(
    folder: Path,
    dataset: Path,
    *,
    head: str = "adatt",
    seed: int = 17,
    effect: float = 0.0,
    evaluated: bool = True,
    **sections: dict[str, Any],
) -> Path:
    """A finished run as `adatt train` leaves it, without checkpoints; its losses are (1 + effect) times the usual."""
    model = {"head": head, "tower": [8]} | ({} if head == "single_task" else {"levels": [[16], [8]]})
    model |= {"task_experts": 2, "shared_experts": 1} if head == "adatt" else {}
    values = config_values(
        dataset,
        run={"dir": str(folder), "seed": seed},
        model=model,
        train={"samples": 900_000},
        evaluate={"at_samples": list(MILESTONES)},
        **sections,
    )
    values["model"] = model
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(tomli_w.dumps(plain(parse_config(values, "test"))), encoding="utf-8")
    (folder / "manifests").mkdir()
    for use in ("train", "test"):
        save_manifest(read_manifest(str(dataset / use), cache=None), folder / "manifests" / f"{use}.parquet")
    if evaluated:
        random = np.random.Generator(np.random.Philox(seed + sum(map(ord, head))))
        write_training(folder, random, gated=head != "shared_bottom")
        for place, (milestone, samples) in enumerate(MILESTONES.items()):
            write_evaluation(folder, milestone, samples, 0.96**place * (1 + effect), random)
    return folder


def write_training(folder: Path, random: np.random.Generator, *, gated: bool) -> None:
    records = []
    for samples in range(12_288, 901_121, 12_288):
        progress = 0.2 * math.exp(-samples / 100_000)
        record = {"samples": samples, "seconds": samples / 15_000, "loss": 1.0, "learning_rate": 1e-3}
        record |= {"samples_per_second": 15_000 + 400 * random.normal(), "data_wait_fraction": 0.02 * random.random()}
        for task, value in BASE.items():
            key = "mse" if task == "watch" else "ne"
            record[f"{key}/{task}"] = value * (1 - 0.05 * samples / 900_000 + progress) + 0.004 * random.normal()
            record[f"calibration/{task}"] = 1 + 0.03 * random.normal()
            record[f"label_mean/{task}"] = 0.25
        for level, units in enumerate((("watch", "click", "rare", "shared"), ("watch", "click", "rare")) * gated):
            record |= {f"gate_entropy/{level}/{unit}": 0.5 + progress for unit in units}
        records.append(record)
    append_lines(folder / "train.jsonl", records)


def write_evaluation(folder: Path, milestone: str, samples: int, factor: float, random: np.random.Generator) -> None:
    """The records, the buckets that fit them, and fusion weights."""
    shared = np.random.Generator(np.random.Philox(5))
    columns: dict[str, list[Any]] = {}
    records = []
    for task, value in BASE.items():
        kind = "regression" if task == "watch" else "binary"
        entropy = math.log(2) if kind == "binary" else 1.0
        noise_K = shared.normal(size=BUCKETS) + 0.05 * random.normal(size=BUCKETS)
        loss_K = ROWS * value * factor * entropy * (1 + 0.1 * noise_K)
        label_K = np.full(BUCKETS, ROWS / 2)
        numbers = [np.full(BUCKETS, ROWS), np.full(BUCKETS, float(ROWS)), loss_K, 1.01 * label_K, label_K, label_K]
        names = ("examples", "weight", "loss", "prediction", "label", "label_squared")
        for name, column in [
            ("task", [task] * BUCKETS),
            ("kind", [kind] * BUCKETS),
            ("bucket", range(BUCKETS)),
            *zip(names, numbers, strict=True),
        ]:
            columns.setdefault(name, []).extend(column)
        mean = float(loss_K.sum()) / (ROWS * BUCKETS)
        binary = {"ne": mean / entropy, "log_loss": mean, "auc": 0.76, "calibration": 1.01, "mse": None, "nmse": None}
        regression = {"ne": None, "log_loss": None, "auc": None, "calibration": 0.99, "mse": mean, "nmse": mean / 2}
        counts = {"examples": ROWS * BUCKETS, "weight": float(ROWS * BUCKETS), "by": None, "value": None}
        counts |= {"label_mean": 0.5}
        record = {"samples": samples, "milestone": milestone, "task": task, "kind": kind}
        records.append(record | counts | (binary if kind == "binary" else regression))
    append_lines(
        folder / "evaluations.jsonl", [{**records[0], "by": "tab", "value": 3, "mse": 9 + samples / 1e6}, *records]
    )
    metadata = {
        "samples": str(samples),
        "milestones": f'["{milestone}"]',
        "test_fingerprint": "f",
        "buckets": str(BUCKETS),
    }
    (folder / "evaluations").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), folder / "evaluations" / f"{samples}.parquet")


def write_fusion(folder: Path, samples: int = 901_120) -> None:
    tasks = ["watch", "click", "rare"]
    experts = [*(f"{task} {number}" for task in tasks for number in (1, 2)), "shared 1"]
    levels = []
    for units in ([*tasks, "shared"], tasks):
        weights_UE = np.random.Generator(np.random.Philox(len(units))).dirichlet(np.full(len(experts), 0.6), len(units))
        weights_UE[0, 1] = -0.12
        levels.append({"units": units, "experts": experts, "weights": weights_UE.tolist()})
    (folder / "fusion").mkdir(exist_ok=True)
    (folder / "fusion" / f"{samples}.json").write_text(json.dumps({"samples": samples, "levels": levels}))


def write_conflicts(folder: Path, num_tasks: int = 3) -> None:
    """Records with `balance`, and the mean cosines before two evaluations: the first two tasks conflict at the last."""
    tasks = [*BASE, *(f"task_{number}" for number in range(3, num_tasks))][:num_tasks]
    pairs = [(one, other) for place, one in enumerate(tasks) for other in tasks[place + 1 :]]
    windows = read_records(folder / "train.jsonl")
    for window in windows:
        window |= {f"balance_weight/{task}": 1.0 for task in tasks}
        window |= {f"gradient_norm/{task}": 0.01 for task in tasks}
        window |= {f"gradient_cosine/{one}/{other}": 0.5 - 0.005 * place for place, (one, other) in enumerate(pairs)}
    rewrite_records(folder / "train.jsonl", windows)
    (folder / "conflicts").mkdir()
    for since, samples, cosine in ((0, 301_056, 0.2), (301_056, 602_112, -0.125)):
        cosines = [[None if row == column else 0.25 for column in tasks] for row in tasks]
        shares = [[None if row == column else 0.1 for column in tasks] for row in tasks]
        cosines[0][1] = cosines[1][0] = cosine
        shares[0][1] = shares[1][0] = 0.6
        cosines[0][2] = cosines[2][0] = shares[0][2] = shares[2][0] = None
        record = {"since": since, "steps": 49, "tasks": tasks, "cosines": cosines, "below_zero": shares}
        (folder / "conflicts" / f"{samples}.json").write_text(json.dumps({"samples": samples, **record}))


def write_curves(folder: Path, samples: int = 901_120) -> None:
    """Calibration along the predictions: right but for the highest tenth."""
    share = [0.05 + 0.1 * place for place in range(10)]
    predicted = [0.02 * (place + 1) for place in range(10)]
    observed = [*predicted[:9], 0.25]
    bounds = {"low": [0.9 * rate for rate in observed], "high": [1.1 * rate for rate in observed]}
    curve = {"task": "click", "share": share, "predicted": predicted, "observed": observed, **bounds}
    (folder / "calibration").mkdir()
    (folder / "calibration" / f"{samples}.json").write_text(json.dumps({"samples": samples, "tasks": [curve]}))


def write_history(folder: Path) -> None:
    """Two starts, the first killed; checkpoints, and every other kind of event."""
    segment = {"world_size": 2, "fingerprint": "f", "trace": False}
    append_lines(
        folder / "segments.jsonl",
        [
            {"segment": 0, "started": "2026-11-24T11:00:00Z", "from": 0, "to": 204_800, "checkpoint": None, "end": None}
            | segment,
            {
                "segment": 1,
                "started": "2026-11-24T11:10:00Z",
                "from": 102_400,
                "to": 901_120,
                "checkpoint": "102400",
                "end": "finished",
            }
            | segment,
        ],
    )
    events: list[tuple[str, str, int, dict[str, Any]]] = [
        ("checkpoint", "11:02:00", 102_400, {"pinned": False, "seconds": 0.31}),
        ("checkpoint", "11:04:00", 204_800, {"pinned": False, "seconds": 0.29}),
        ("damaged_checkpoint", "11:10:03", 102_400, {"problem": "204800: <model.pt> is cut short"}),
        ("changed_data", "11:10:04", 102_400, {"files": [f"day_{day}.parquet" for day in range(1, 8)]}),
        ("skipped_batch", "11:12:00", 150_000, {"batch": 4096}),
        (
            "skipped_rows",
            "11:13:00",
            160_000,
            {"epoch": 0, "file": "day_07.parquet", "row_group": 3, "start": 0, "stop": 97, "reason": "bad page"},
        ),
        (
            "bad_values",
            "11:14:00",
            170_000,
            {"epoch": 0, "file": "day_07.parquet", "row_group": 4, "column": "click", "reason": "not 0, 1 or null"}
            | {"rows": 3, "ranges": [[0, 1], [5, 7]]},
        ),
        *(("checkpoint", f"11:{20 + number}:00", 204_800 + 51_200 * number, {"seconds": 0.3}) for number in range(13)),
    ]
    append_lines(
        folder / "events.jsonl",
        [
            {"event": kind, "time": f"2026-11-24T{time}+00:00", "segment": 1, "samples": samples, **values}
            for kind, time, samples, values in events
        ],
    )


class Tree(HTMLParser):
    """Fails where an element is not closed, or not by its own tag; keeps elements and text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(document)
        self.close()
        assert not self._open
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append(" ".join(self._open))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag in BLOCKS:
            self._text.append(" ")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title"):
            self._text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(out: Path, *runs: Path) -> Tree:
    write_report([str(folder) for folder in runs], out)
    return Tree(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A baseline and two other heads, whole; none of the tests writes to them."""
    folder = tmp_path_factory.mktemp("runs")
    base = write_run(folder / "base", dataset, head="shared_bottom")
    better = write_run(
        folder / "better", dataset, effect=-0.02, optimizer={"dense": {"name": "adam", "learning_rate": 0.01}}
    )
    worse = write_run(folder / "worse", dataset, head="mmoe", effect=0.01)
    write_conflicts(better)
    for run_folder in (better, worse):
        write_fusion(run_folder)
        write_curves(run_folder)
        write_history(run_folder)
    return [base, better, worse]


def test_the_page_is_whole_and_stands_alone(runs: list[Path], tmp_path: Path) -> None:
    tree = report(tmp_path / "report.html", *runs)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for word in ("http:", "https:", "//", "<script", "<link", "<img", "@import", "url("):
        assert word not in text
    assert len(tree.all("h1")) == 1
    targets = [link["href"] for link in tree.all("a")]
    assert targets == [f"#{heading['id']}" for heading in tree.all("h2")]
    assert len(targets) == 9
    # per task; calibration; gates; cosines at two evaluations, and three charts of them; speed
    assert len(tree.all("figure")) == 3 * 3 + 1 + 2 * 2 * 2 + 2 + 3 + 2
    charts = [attributes for attributes in tree.all("svg") if attributes.get("class") == "chart"]
    assert all(chart["role"] == "img" and any(map(str.isdigit, chart["aria-label"] or "")) for chart in charts)
    tables_in_figures = [where for (tag, _), where in zip(tree.elements, tree.inside, strict=True) if tag == "table"]
    assert len(charts) + sum("figure" in where for where in tables_in_figures) == len(tree.all("figure"))


def test_the_data_are_described(runs: list[Path], dataset: Path, tmp_path: Path) -> None:
    """One row for each dataset, with its rows, windows and label means; runs on the same one share it."""
    windows = "2: part-0.parquet to part-1.parquet"
    groups = {use: read_manifest(str(dataset / use), None).rows for use in ("train", "test")}
    train = f"train all 8,000 2 {len(groups['train'])} {windows} 0.2500 0.2500 0.2500"
    test = f"test all 1,001 2 {len(groups['test'])} {windows} 0.5000 0.5000 0.5000"
    assert f"time windows watch click rare {train} {test} " in report(tmp_path / "report.html", *runs).text
    other = write_run(tmp_path / "other", dataset, evaluated=False)
    save_manifest(read_manifest(str(dataset / "test"), cache=None), other / "manifests" / "train.parquet")
    text = report(tmp_path / "report.html", runs[0], other).text
    for row in ("train base 8,000", "train other 1,001", "test all 1,001"):
        assert row in text


def test_what_has_no_fusion_weights_is_said_once(runs: list[Path], dataset: Path, tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, dataset, head="shared_bottom", seed=seed) for seed, name in enumerate("ab")]
    text = report(tmp_path / "report.html", *runs, *folders).text
    assert text.count("No fusion weights") == 1
    assert "No fusion weights of base, a, b: the head has no gates" in text


def test_whether_tasks_conflict_is_said_and_drawn(runs: list[Path], tmp_path: Path) -> None:
    tree = report(tmp_path / "report.html", *runs)
    alternatives = [str(chart["aria-label"]) for chart in tree.all("svg") if "aria-label" in chart]
    ends = "at 12,288 samples to {0} at 897,024 samples"
    for text in (
        "better (adatt, constant) From 301,056 to 602,112 samples (49 steps looked at), 1 of 2 pairs of tasks ",
        "watch and click (mean cosine −0.125, below 0 in 60% of the steps).",
        "Cosines from 0 to 301,056 samples, means over 49 steps task watch click rare watch 0.20 click 0.20 0.25",
        "watch −0.12 click −0.12 0.25 rare 0.25",
    ):
        assert text in tree.text
    (cosines,) = (text for text in alternatives if text.startswith("Cosines of gradients. better: click and rare 0.49"))
    assert f"watch and rare 0.4950 {ends.format('0.4950')}; watch and click 0.5000 {ends.format('0.5000')}" in cosines

    alone = report(tmp_path / "alone.html", runs[0])
    assert "conflict" not in alone.text
    assert len(alone.all("h2")) == 8


def test_of_many_tasks_the_pairs_that_conflict_most_are_drawn(dataset: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", dataset)
    write_conflicts(folder, num_tasks=20)
    tree = report(tmp_path / "report.html", folder)
    (drawn,) = (str(chart["aria-label"]) for chart in tree.all("svg") if "task_18 and task_19" in str(chart))
    assert drawn.startswith("The 6 pairs that conflict most. run: task_18 and task_19 −0.4450 at 12,288 samples")
    assert drawn.count(" and ") == 6
    assert "1 of 189 pairs of tasks conflict on average: watch and click" in tree.text


def test_noise_of_training_does_not_set_the_axis() -> None:
    """A faint line is smoothed, and what it begins with may lie outside."""
    random = np.random.default_rng(3)
    noisy = [(float(step), 0.9 + 5 * (step < 3) + 0.2 * random.normal()) for step in range(100)]
    tested = [(50.0, 0.91), (100.0, 0.89)]
    figure = line_chart(Chart("t", "n", "a", [Line("l", noisy, 0, faint=True), Line("l", tested, 0)]))
    shown = [float(text.text.replace("−", "-")) for text in figure.iter("text") if text.get("text-anchor") == "end"
             and text.text and text.text[0].isdigit()]  # fmt: skip
    assert 0.7 < min(shown) < max(shown) < 1.3


def test_the_results_are_those_of_the_comparison(runs: list[Path], tmp_path: Path) -> None:
    tree = report(tmp_path / "report.html", *runs)
    comparison = compare_runs(str(runs[0]), [str(folder) for folder in runs[1:]])
    assert len(comparison.differences) == 2 * 3 * 3
    for entry in comparison.differences:
        assert f"{entry.relative_percent:+.3f} %".replace("-", "−") in tree.text
        assert f"[{entry.low_percent:+.3f}, {entry.high_percent:+.3f}]".replace("-", "−") in tree.text
        assert f"{entry.value:.4f}" in tree.text
    assert "adatt (better) against shared_bottom (base) at 900k samples: lower on watch (−2." in tree.text
    assert "mmoe (worse) against shared_bottom (base) at 900k samples: higher on watch (+1." in tree.text
    assert "cannot be told from one training on each side" in tree.text
    assert tree.text.count("9.9011") == 3  # the newest record of one value of a column, in a table of its own
    assert "watch by tab MSE at each run's newest evaluation tab test examples base better worse 3 " in tree.text
    assert any("better 1.00, 1.00, " in str(chart["aria-label"]) for chart in tree.all("svg") if "aria-label" in chart)
    assert "model.head shared_bottom adatt mmoe" in tree.text
    assert "optimizer.dense.learning_rate 0.001 0.01 0.001" in tree.text
    assert "run.dir" not in tree.text


def test_seeds_of_a_head_are_one_row_and_heads_are_told_apart(dataset: Path, tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"{head}-{seed}", dataset, head=head, seed=seed, effect=effect)
        for head, effect in (("shared_bottom", 0.0), ("adatt", -0.3))
        for seed in (1, 2, 3)
    ]
    tree = report(tmp_path / "report.html", *folders)
    assert "adatt (adatt-1, adatt-2, adatt-3) against" in tree.text
    assert re.search(r": better on watch \(−(29|30)\.\d+ %\), click \(", tree.text)
    assert "not told apart" not in tree.text


def test_names_are_text_whatever_they_contain(dataset: Path, tmp_path: Path) -> None:
    name = "<script>alert('1')</script> & \"quoted\"</title>"
    folder = write_run(tmp_path / name.replace("/", "∕"), dataset)
    write_history(folder)
    not_text = write_run(tmp_path / "b", dataset, head="mmoe").rename(tmp_path / "b\udcff")
    tree = report(tmp_path / "report.html", folder, not_text)
    assert not tree.all("script")
    assert "<script>alert('1')<∕script> & \"quoted\"<∕title>" in tree.text
    assert "204800: <model.pt> is cut short" in tree.text


def test_two_runs_of_one_name_go_by_their_paths(dataset: Path, tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / place / "run", dataset, seed=seed, evaluated=False) for seed, place in enumerate("ab")
    ]
    assert [found.name for found in read_all_records([str(folder) for folder in folders])] == list(map(str, folders))


def test_what_is_missing_is_said(dataset: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "new", dataset, evaluated=False)
    tree = report(tmp_path / "report.html", folder)
    for text in (
        "No run has been evaluated yet.",
        "No evaluation and no training record with NE or MSE yet.",
        "No calibration is recorded yet.",
        "No fusion weights: the head has no gates, or has not been evaluated yet.",
        "Nothing has been logged yet.",
        "No starts and no events are recorded.",
        "not recorded",
    ):
        assert text in tree.text
    assert "task kind label auxiliary weight watch regression watch no 1" in tree.text
    tree = report(tmp_path / "report.html", write_run(tmp_path / "whole", dataset, head="mmoe"), folder)
    assert f"{folder}: no evaluation to compare" in tree.text
    assert "0.5" in tree.text


def test_a_run_under_way(dataset: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", dataset)
    records = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(records[:3]) + records[3][:20])
    (folder / "evaluations.jsonl").unlink()
    started = {"segment": 0, "started": "2026-11-24T11:00:00Z", "from": 0, "to": 0, "world_size": 2, "checkpoint": None}
    append_lines(folder / "segments.jsonl", [started | {"fingerprint": "f", "trace": False, "end": None}])
    tree = report(tmp_path / "report.html", folder)
    assert "adatt 17 36,864 900,000 under way, or killed" in tree.text
    assert "1 start, 0 restarts among them; 0 checkpoints; nothing left out." in tree.text
    assert len(tree.all("figure")) == 3 + 3 + 2 + 2


def test_runs_that_cannot_be_compared(runs: list[Path], dataset: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", dataset, head="ple")
    for path in (other / "evaluations").iterdir():
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"test_fingerprint": b"g"}), path)
    tree = report(tmp_path / "report.html", runs[0], other, runs[1])
    assert "Not compared, or only in part:" in tree.text
    assert "on another test set" in tree.text
    assert "adatt (better) against shared_bottom (base)" in tree.text


def test_numbers_that_are_not_finite_leave_a_gap(dataset: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", dataset)
    records = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(records.replace('"ne/click": 0', '"ne/click": NaN, "x": 0', 2))
    report(tmp_path / "report.html", folder)
    assert "nan" not in (tmp_path / "report.html").read_text().lower()


def test_the_timeline_tells_what_happened(runs: list[Path]) -> None:
    records = read_all_records([str(runs[1])])[0]
    document = "".join(
        ElementTree.tostring(part, encoding="unicode", method="html")
        for part in timeline(records, opened=True)
        if isinstance(part, ElementTree.Element)
    )
    text = Tree(document).text
    for line in (
        "2 starts, 1 restart among them; 15 checkpoints; 1 damaged checkpoint; 1 batch left out; 97 unreadable rows",
        "2026-11-24 11:00:00 0 Start from the beginning, on 2 ranks: saved up to 204,800 samples, killed",
        "2026-11-24 11:02:00 102,400 Checkpoint, saved in 0.31 s",
        "102,400 Restart on from checkpoint 102,400, on 2 ranks: saved up to 901,120 samples, finished",
        "Damaged checkpoint set aside: 204800: <model.pt> is cut short",
        "102,400 7 training files accepted with new contents and the same rows: day_1.parquet, day_2.parquet, "
        "day_3.parquet, day_4.parquet, day_5.parquet and 2 files more",
        "150,000 Batch of 4,096 samples left out: a loss or gradient was not finite",
        "160,000 97 rows left out: row group 3 of day_07.parquet cannot be read (bad page)",
        "170,000 3 rows of row group 4 of day_07.parquet left out for a bad value: click is not 0, 1 or null",
        "; 3 rows with bad values left out",
        "2026-11-24 11:20:00 to 11:32:00 204,800 to 819,200 13 checkpoints, saved in 0.30 s (median), 0.30 s at most",
    ):
        assert line in text
    assert text.index("Restart on") < text.index("Damaged checkpoint set aside")


def damage(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return change


DAMAGED = {
    "not JSON": (damage("train.jsonl", "{\n"), "train.jsonl: line 1 is not a training record"),
    "no object": (damage("train.jsonl", "[1]\n"), "line 1 is not a training record (Input should be an object)"),
    "a text": (damage("train.jsonl", '{"samples": 1, "loss": "x"}\n'), "(loss: Input should be a valid number"),
    "no task": (damage("evaluations.jsonl", '{"samples": 1}\n'), "evaluations.jsonl: line 1 is not an evaluation"),
    "bad time": (
        damage("events.jsonl", '{"event": "checkpoint", "time": "noon", "samples": 1}\n'),
        "events.jsonl: line 1 is not an event (time: ",
    ),
    "segments": (damage("segments.jsonl", "{}\n"), "segments.jsonl: line 1 is not the record of a start"),
    "fusion": (
        damage(
            "fusion/1000000.json",
            '{"samples": 1, "levels": [{"units": ["a"], "experts": ["b"], "weights": [[1, 2]]}]}',
        ),
        "fusion/1000000.json: not the fusion weights of an evaluation (levels.0: weights are not 1 rows of 1, not",
    ),
    "conflicts": (
        damage(
            "conflicts/5.json",
            '{"samples": 5, "since": 0, "steps": 1, "tasks": ["a"], "cosines": [[null, 1]], "below_zero": [[null]]}',
        ),
        "conflicts/5.json: not the cosines of gradients before an evaluation (cosines and shares are not 1 rows of 1",
    ),
    "calibration": (
        damage(
            "calibration/1000000.json",
            '{"samples": 1, "tasks": [{"task": "click", "share": [0.5], "predicted": [0], "observed": [0.1], '
            '"low": [0.0], "high": [0.2]}]}',
        ),
        "calibration/1000000.json: not the calibration of an evaluation (tasks.0: its lists differ in length, or a",
    ),
    "config": (damage("config.toml", "run = 3"), "config.toml"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_records_are_refused(
    name: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = DAMAGED[name]
    folder = write_run(tmp_path / "run", dataset)
    write_fusion(folder)
    write_curves(folder)
    change(folder)
    assert_refused(tmp_path / "report.html", capsys, message, str(folder))


def assert_refused(out: Path, capsys: pytest.CaptureFixture[str], message: str, *runs: str) -> None:
    before = set(out.parent.glob("*")) if out.parent.is_dir() else set()
    assert run(["report", *runs, "--out", str(out)]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert message in found.err
    assert (set(out.parent.glob("*")) if out.parent.is_dir() else set()) == before


def test_wrong_arguments_are_refused(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(runs[0])
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "locked.partial").mkdir()
    page = tmp_path / "report.html"
    assert_refused(page, capsys, "no run here (no config.toml)", good, str(tmp_path))
    assert_refused(page, capsys, "no run here (no config.toml)", str(tmp_path / "nothing"))
    assert_refused(page, capsys, "is given twice", good, f"{good}/../base")
    assert_refused(page, capsys, "Missing argument")
    assert_refused(tmp_path / "no" / "report.html", capsys, "there is no folder", good)
    assert_refused(tmp_path / "folder.html", capsys, "is a folder", good)
    assert_refused(tmp_path / "config.toml", capsys, "name one that ends in .html", good)
    assert_refused(tmp_path / "locked.html", capsys, "cannot be written", good)


def test_the_command_replaces_a_report(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    assert run(["report", *map(str, runs), "--out", str(out)]) == 0
    assert capsys.readouterr() == (f"written: {out}\n", "")
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [out]


finite = st.floats(-1e9, 1e9, allow_subnormal=False)


@given(finite, st.floats(1e-6, 1e9))
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    assume(width > 1e-9 * abs(low))
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-6 * width <= tick <= low + 1.000001 * width for tick in found)
    assert len(set(tick_texts(found))) == len(found)


@given(st.lists(st.tuples(st.integers(0, 10**12), st.floats()), max_size=40), st.booleans(), st.booleans())
def test_charts_draw_inside_their_area_whatever_the_numbers(
    points: list[tuple[int, float]], faint: bool, from_zero: bool
) -> None:
    points = [(samples, value) for samples, value in points if not 1e200 < abs(value) < math.inf]
    chart = Chart("t", "n", "a", [Line("l", sorted(points), 7, faint)], from_zero=from_zero)
    figure = line_chart(chart)
    for line in figure.iter("polyline"):
        for place in line.get("points", "").split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= 400
            assert faint or 0 <= y <= 250


def test_what_is_only_in_the_background_is_in_the_legend() -> None:
    lines = [Line("tested", [], 0), Line("trained", [(1.0, 2.0), (2.0, 3.0)], 0, faint=True)]
    figure = line_chart(Chart("t", "n", "a", lines))
    assert [span.text for span in figure.iter("span")] == ["trained"]
    lines[0] = Line("tested", [(1.0, 2.5)], 0)
    assert [span.text for span in line_chart(Chart("t", "n", "a", lines)).iter("span")] == ["tested"]


def test_many_points_become_means() -> None:
    points = [(float(samples), samples % 2) for samples in range(10_000)]
    (line,) = line_chart(Chart("t", "n", "a", [Line("l", points, 0)])).iter("polyline")
    assert len(line.get("points", "").split()) == 200


SIZES = (
    "[...document.querySelectorAll('figure')].map(e => e.querySelector('svg.chart, table').getBoundingClientRect())"
    + (".map(box => [box.width, box.height])")
)
CONTRASTS = """
(() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const ground = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(numbers(getComputedStyle(e).backgroundColor));
    const over = (below, [r, g, b, alpha = 1]) => below.map((c, i) => c + alpha * ([r, g, b][i] - c));
    return layers.reduce(over, [255, 255, 255]);
  };
  const light = rgb => rgb.map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const filled = e => !('innerText' in e) || [...e.childNodes].some(node => node.nodeType == 3 && node.data.trim());
  const least = (selector, colour) => Math.min(...[...document.querySelectorAll(selector)].filter(filled).map(e => {
    const [low, high] = [light(numbers(getComputedStyle(e)[colour])), light(ground(e))].sort((a, b) => a - b);
    return (high + .05) / (low + .05);
  }));
  return [least('h1, h2, h3, p, li, a, summary, th, td, small, td span', 'color'), least('svg text', 'fill'),
    least('.line:not(.faint), .marker', 'stroke')];
})()
"""
"""The least contrast of text, of text in figures, and of lines, to what lies behind them."""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page() as opened:
        yield opened


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian's package chromium)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(
    page: Page, runs: list[Path], tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    tree = report(tmp_path / "report.html", *runs)
    page.open(tmp_path / "report.html", width, scheme)
    assert page.complaints() == []
    assert page.requests() == [(tmp_path / "report.html").as_uri()]
    sizes = page.evaluate(SIZES)
    assert len(sizes) == len(tree.all("figure"))
    assert all(box[0] >= 150 and box[1] >= 80 for box in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
    text, text_in_figures, lines = page.evaluate(CONTRASTS)
    assert min(text, text_in_figures) >= 4.5
    assert lines >= 3
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
