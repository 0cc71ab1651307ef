"""From single-task runs to a config for `branched`."""

import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

from data.storage.parsing import parse_toml
from models.columns import unnamed_columns
from models.cost import head_cost
from models.heads.related.branched import BranchedConfig
from models.heads.shared_bottom import SingleTaskConfig
from tests.commands import run_command
from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values
from tests.trainer.training import train_or_explain
from trainer.analysis.affinity.affinity import flops_of, parse_budget, suggest, toml_of
from trainer.analysis.affinity.networks import read_networks
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError

LEVELS = {"levels": [[16, 12], [8]], "tower": [4]}
TASKS = ["watch", "click", "rare"]


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a run for each task, `all` (single_task), and runs that do not fit to them."""
    folder = tmp_path_factory.mktemp("runs")
    jobs: dict[str, tuple[dict[str, Any], list[str]]] = {
        **{task: ({"head": "shared_bottom", **LEVELS}, [task]) for task in TASKS},
        "all": ({"head": "single_task", **LEVELS}, TASKS),
        "other": ({"head": "single_task", "levels": [[16], [8]]}, ["click"]),
        "other_train": ({"head": "shared_bottom", **LEVELS}, ["click"]),
    }
    tasks = {task["name"]: task for task in config_values(dataset)["tasks"]}
    configs = []
    for name, (model, names) in jobs.items():
        data = {"train": str(dataset / "test")} if name == "other_train" else {}
        values = config_values(dataset, run={"dir": str(folder / name)}, data=data, train={"samples": 256})
        chosen = {"tasks": [tasks[task] for task in names], "model": model, "evaluate": {"at_samples": []}}
        configs.append(parse_config({**values, **chosen}, "test"))
    assert run_on_ranks(1, train_all, configs) == [[None] * len(configs)]

    changed_copy(folder / "all", folder / "shared", model={"head": "shared_bottom"})
    changed_copy(folder / "click", folder / "other_test", data={"test": str(dataset / "train" / "*-0*")})
    return folder


def changed_copy(run: Path, copy: Path, **sections: dict[str, Any]) -> None:
    """A copy of a run with other values in its config; None takes a key away."""
    shutil.copytree(run, copy)
    values = parse_toml((copy / "config.toml").read_text())
    for section, changes in sections.items():
        merged = {**values[section], **changes}
        values[section] = {key: value for key, value in merged.items() if value is not None}
    (copy / "config.toml").write_text(tomli_w.dumps(values))


def train_all(world: World, configs: list[Config]) -> list[str | None]:
    return [train_or_explain(world, config) for config in configs]


def paths(runs: Path, *names: str) -> list[str]:
    return [str(runs / name) for name in names]


def test_the_command_writes_a_tree_that_the_config_takes(runs: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "affinity.json"
    code, text, errors = run_command(
        tmp_path, "affinity", *paths(runs, *TASKS), "--budget", "1.6x", "--rows", "200", "--out", str(out)
    )
    assert (code, errors) == (0, "")
    section = text[text.index("[model]") : text.index("written:")]
    model = parse_toml(section)["model"]
    config = parse_config({**config_values(dataset), "model": model}, "test")
    assert config.model == BranchedConfig(**LEVELS, tree=model["tree"])  # type: ignore[arg-type]

    record = json.loads(out.read_text())
    best = record["trees"][0]
    assert record["tasks"] == TASKS
    assert record["rows"] == 200
    assert record["all_trees"]
    assert best["tree"] == model["tree"]
    assert best["flops_per_row"] == head_cost(config.model, config.columns, TASKS).forward_flops
    assert [tree["cost"] for tree in record["trees"]] == sorted(tree["cost"] for tree in record["trees"])
    one_trunk = head_cost(BranchedConfig(**LEVELS), config.columns, TASKS).forward_flops  # type: ignore[arg-type]
    assert record["budget_flops_per_row"] == int(Decimal("1.6") * one_trunk)
    assert all(tree["flops_per_row"] <= record["budget_flops_per_row"] for tree in record["trees"])

    affinity_LTT = np.array(record["affinity"])
    assert affinity_LTT.shape == (2, 3, 3)
    assert affinity_LTT == pytest.approx(affinity_LTT.transpose(0, 2, 1))
    assert affinity_LTT.diagonal(axis1=1, axis2=2) == pytest.approx(1)
    assert (np.abs(affinity_LTT) <= 1 + 1e-9).all()
    for level in range(2):
        assert f"affinity, level {level}" in text
        assert f"{affinity_LTT[level, 0, 1]:.3f}" in text


def test_without_a_budget_the_best_tree_of_each_number_of_flops_is_shown(runs: Path, tmp_path: Path) -> None:
    code, text, errors = run_command(tmp_path, "affinity", *paths(runs, "all"), "--rows", "100")
    assert (code, errors) == (0, "")
    assert "tree = [" not in text
    assert "with --budget" in text
    assert "best of 12 trees (all; 100 rows)" in text


def read_and_compute(world: World, runs: list[str], num_rows: int) -> tuple[list[str], Any, Any]:
    """The tasks, their activations, and the same by hand."""
    networks = read_networks(runs, "latest", None, num_rows, world)
    expected = [of_task for run in runs for of_task in trunk_by_hand(world, run, num_rows)]
    return networks.tasks, networks.activations, expected


def trunk_by_hand(world: World, run: str, num_rows: int) -> list[list[np.ndarray]]:
    """Activations of the whole test set by plain layers, at rows evenly spread over what the lanes hand out first."""
    from dataclasses import replace

    from trainer.batches import open_stream
    from trainer.checkpoint.trained_run import open_trained_run
    from trainer.datasets import test_reading

    trained = open_trained_run(run, world)
    manifest = trained.open_dataset(trained.config.data.test_source, trained.config)  # type: ignore[arg-type]
    sharded = trained.load(trained.find_checkpoint("latest"))
    reading = test_reading(trained.config, manifest, 50, trained.vocabularies)
    batches = open_stream(replace(reading, global_batch_size=num_rows), world, 0)
    batch = next(batches)
    batches.close()
    model = sharded.model.module.eval()
    with torch.no_grad():
        x = model.features(batch.sparse, batch.dense_BD)[batch.row_ids_B.argsort()]
    weights = [(layer.weight.detach(), layer.bias.detach()) for layer in model.head.trunk.layers]
    found = []
    for task in range(len(weights[0][0])):
        h, of_task = x, []
        for weight_NOI, bias_NO in weights:
            h = torch.relu(h @ weight_NOI[task].T + bias_NO[task])
            of_task.append(h.numpy())
        found.append([of_task[1], of_task[2]])  # behind [16, 12] and behind [8]
    return found


@pytest.mark.parametrize("names", [["all"], TASKS])
def test_activations_are_those_of_the_trunks(runs: Path, names: list[str]) -> None:
    ((tasks, found, expected),) = run_on_ranks(1, read_and_compute, paths(runs, *names), 300)
    assert tasks == TASKS
    for of_task, expected_of_task in zip(found, expected, strict=True):
        for level, expected_level in zip(of_task, expected_of_task, strict=True):
            assert level.shape == expected_level.shape
            assert level == pytest.approx(expected_level, abs=1e-5)


def test_rows_are_as_many_as_are_asked_for_or_as_there_are(runs: Path) -> None:
    counts = run_on_ranks(1, read_counts, paths(runs, "all"), [3, 77, 1001, 2000])
    assert counts == [[{3}, {77}, {1001}, {1001}]]


def read_counts(world: World, runs: list[str], asked: list[int]) -> list[set[int]]:
    found = [read_networks(runs, "latest", None, num_rows, world).activations for num_rows in asked]
    return [{len(level) for of_task in tasks for level in of_task} for tasks in found]


def refused(tmp_path: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    code, out, errors = run_command(tmp_path, "affinity", *arguments, environment=environment)
    assert (code, out) == (2, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors


def test_wrong_runs(runs: Path, tmp_path: Path) -> None:
    click, shared, other = paths(runs, "click", "shared", "other")
    assert "model.head = 'shared_bottom' with 3 tasks is no network of a single task" in refused(
        tmp_path, click, shared
    )
    assert f"task 'click' is in {click} and in {runs / 'all'}" in refused(tmp_path, click, str(runs / "all"))
    assert "has one task, 'click'" in refused(tmp_path, click)
    watch = str(runs / "watch")
    errors = refused(tmp_path, watch, other)
    assert "other has model.levels [[16], [8]]" in errors
    assert "watch has [[16, 12], [8]]" in errors
    assert "nowhere" in refused(tmp_path, str(tmp_path / "nowhere"))


def test_runs_of_other_data(runs: Path, dataset: Path, tmp_path: Path) -> None:
    watch, tested = paths(runs, "watch", "other_test")
    assert "other_train has training data" in refused(tmp_path, watch, str(runs / "other_train"))
    assert "other_test has test rows" in refused(tmp_path, watch, tested)
    on_one = ("--data", str(dataset / "test"), "--rows", "50")
    code, _, errors = run_command(tmp_path, "affinity", watch, tested, *on_one)
    assert (code, errors) == (0, "")


def test_a_run_without_a_test_set(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "untested"
    data = {"order": "chronological", "test": None}
    changed_copy(runs / "all", copy, data=data, evaluate={"at_samples": [], "next_window": True})
    assert "its config names no data.test; name a dataset with --data" in refused(tmp_path, str(copy))


def test_wrong_options(runs: Path, tmp_path: Path) -> None:
    run = str(runs / "all")
    assert "--budget allows 10 FLOPs a row, but one trunk for all tasks takes" in refused(
        tmp_path, run, "--budget", "10"
    )
    assert "--where chooses partitions of --data" in refused(tmp_path, run, "--where", "dt > 3")
    two_ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert "start it without torchrun" in refused(tmp_path, run, environment=two_ranks)
    taken = tmp_path / "folder"
    taken.mkdir()
    assert "cannot be written" in refused(tmp_path, run, "--out", str(taken))


def test_budgets() -> None:
    assert parse_budget(None) is None
    assert parse_budget("1.25x") == Decimal("1.25")
    assert parse_budget("2x") == 2
    assert parse_budget("400k") == 400_000
    for text in ("x", "-1x", "1.5 x", "400kx", ""):
        with pytest.raises(ConfigError, match="is no number of FLOPs"):
            parse_budget(text)


def test_flops_of_every_suggestion_are_those_of_the_head() -> None:
    tasks = ["a", "b", "c", 'd "quoted" \u00e4']
    random = np.random.Generator(np.random.Philox(5))
    affinity_LTT = random.uniform(0, 0.9, (3, 4, 4))
    affinity_LTT = np.maximum(affinity_LTT, affinity_LTT.transpose(0, 2, 1))
    affinity_LTT[:, range(4), range(4)] = 1
    model = SingleTaskConfig(levels=((9, 7), (5,), (3,)), tower=(), activation="tanh", dropout=0.25)
    columns = unnamed_columns(11)
    affinity = suggest(model, columns, tasks, affinity_LTT, None, num_rows=100)
    assert affinity.num_trees == 154
    for tree in affinity.trees:
        head = affinity.head_of(tree)
        assert head_cost(head, columns, tasks).forward_flops == tree.flops
        written = parse_toml(toml_of(affinity, tree))["model"]
        assert BranchedConfig(**written) == head
    flops = flops_of(affinity.head, columns, tasks)
    assert flops.of_level == (2 * (11 * 9 + 9 * 7), 2 * 7 * 5, 2 * 5 * 3)
    assert flops.of_towers == 4 * 2 * 3
