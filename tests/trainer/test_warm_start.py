"""A run begins with another's weights (`[init]`): what is taken, what is not, and that nothing else changes."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from data.profile.vocabularies import read_vocabulary
from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values, make_config
from tests.trainer.training import train_or_explain
from trainer.checkpoint.safe_load import SafePlanner, SafeReader
from trainer.checkpoint.storage import list_folders
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.directory import RunDirectory
from trainer.run.records import WarmStartEvent, read_events
from trainer.session import start
from trainer.train import save, train

Weights = dict[str, torch.Tensor]
USER = "model.features.embeddings.embedding_bags.user.weight"
VIDEO = "model.features.embeddings.embedding_bags.video.weight"
USER_STATE = "optimizer.state.sparse.features.embeddings.embedding_bags.user.weight.user.momentum1"
VIDEO_STATE = USER_STATE.replace("user", "video")


def read_weights(run: Path, samples: int) -> Weights:
    """Everything that a checkpoint holds, whole, by its name."""
    folder = run / "checkpoints" / str(samples)
    stored = SafeReader(folder).read_metadata().state_dict_metadata
    weights = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(weights, storage_reader=SafeReader(folder), planner=SafePlanner(), no_dist=True)
    return weights


def _train(world: World, config: Config) -> None:
    train(config, world)


def begin(world: World, config: Config) -> None:
    """Saves what a run begins with."""
    with start(config, world) as components:
        save(components, pinned=True)
        components.checkpoints.finish()


@pytest.fixture(scope="module")
def source(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 1,024 samples, trained on two ranks."""
    run = tmp_path_factory.mktemp("source") / "run"
    run_on_ranks(2, _train, make_config(dataset, run={"dir": str(run)}))
    return run


def begun(dataset: Path, source: Path, run: Path, *, ranks: int = 1, **sections: Any) -> Weights:
    """What a run begins with that starts from `source`."""
    init = {"from": str(source), **sections.pop("init", {})}
    run_on_ranks(ranks, begin, make_config(dataset, run={"dir": str(run)}, init=init, **sections))
    return read_weights(run, 0)


def parts_of(run: Path) -> dict[str, tuple[str, str]]:
    (event,) = (event for event in read_events(RunDirectory(run).events) if isinstance(event, WarmStartEvent))
    return {part.what: (part.taken, part.note) for part in event.parts}


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_begins_with_itself_is_itself(dataset: Path, source: Path, tmp_path: Path, ranks: int) -> None:
    """To the bit: weights, and what both optimizers know."""
    before, now = read_weights(source, 1024), begun(dataset, source, tmp_path / "run", ranks=ranks)
    assert before.keys() == now.keys()
    assert [name for name in before if not torch.equal(before[name], now[name])] == []
    assert parts_of(tmp_path / "run") == {
        "table user": ("all rows", ""),
        "table video": ("all rows", ""),
        "head": ("all weights", ""),
        "optimizer": ("state of what is taken", ""),
    }


def test_numbers_that_the_source_has_measured_come_along(dataset: Path, source: Path, tmp_path: Path) -> None:
    """The rows on which others would be measured are other rows: here the test set's."""
    begun(dataset, source, tmp_path / "run", data={"train": str(dataset / "test")}, train={"samples": 512})
    before, now = (RunDirectory(run).read_config() for run in (source, tmp_path / "run"))
    assert now.features == before.features
    assert now.tasks == before.tasks
    assert now.init is not None
    assert now.init.checkpoint == "1024"


def test_a_run_goes_on_without_its_source(dataset: Path, source: Path, tmp_path: Path) -> None:
    """Also where "latest" means another checkpoint by now."""
    shutil.copytree(source, tmp_path / "source")
    config = {"run": {"dir": str(tmp_path / "run")}, "init": {"from": str(tmp_path / "source")}}
    run_on_ranks(1, _train, make_config(dataset, **config, train={"samples": 256}))
    shutil.rmtree(tmp_path / "source")
    run_on_ranks(1, _train, make_config(dataset, **config, train={"samples": 512}))
    assert int(list_folders(RunDirectory(tmp_path / "run").checkpoints)[-1]) == 512

    config["init"]["tables"] = ["user"]
    (message,) = run_on_ranks(1, train_or_explain, make_config(dataset, **config, train={"samples": 1024}))
    assert "init.tables.0 was '*', now 'user'" in str(message)


def test_tables_without_the_head(dataset: Path, source: Path, tmp_path: Path) -> None:
    """Of another kind it begins fresh; tables and their optimizer's state are the source's."""
    init = {"from": str(source)}
    values = config_values(dataset, run={"dir": str(tmp_path / "run")}, init=init)
    values["model"] = {"head": "mmoe", "levels": [[16], [8]], "experts": 3, "tower": [8]}
    run_on_ranks(1, begin, parse_config(values, "test"))
    now = read_weights(tmp_path / "run", 0)
    before = read_weights(source, 1024)
    assert torch.equal(before[USER], now[USER])
    assert torch.equal(before[USER_STATE], now[USER_STATE])
    assert parts_of(tmp_path / "run")["head"] == ("–", "adatt in the source, mmoe here")


def test_the_head_alone_and_fresh_optimizers(dataset: Path, source: Path, tmp_path: Path) -> None:
    now = begun(dataset, source, tmp_path / "run", init={"tables": [], "optimizer": False})
    before = read_weights(source, 1024)
    head = [name for name in before if name.startswith("model.head.")]
    assert all(torch.equal(before[name], now[name]) for name in head)
    assert not torch.equal(before[USER], now[USER])
    assert all(not now[name].any() for name in now if name.startswith("optimizer."))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_table_that_grew_keeps_its_rows(dataset: Path, source: Path, tmp_path: Path, ranks: int) -> None:
    tables = [{"name": "user", "rows": 70, "dim": 8}, {"name": "video", "rows": 64, "dim": 8}]
    now = begun(dataset, source, tmp_path / "run", ranks=ranks, tables=tables)
    before = read_weights(source, 1024)
    assert torch.equal(now[USER][:50], before[USER])
    assert torch.equal(now[USER_STATE][:50], before[USER_STATE])
    assert now[USER][50:].any(dim=1).all()  # drawn
    assert not now[USER_STATE][50:].any()

    parts = parts_of(tmp_path / "run")
    assert parts["table user"] == ("50 rows", "20 new rows begin fresh")
    assert parts["table video"] == ("–", "its dim is 4 in the source, 8 here")
    assert parts["head"][0].endswith(" weights")
    assert parts["head"][1].startswith("fresh: levels.0.experts.watch 0.0.weight")


def test_a_further_task_leaves_the_others_their_networks(dataset: Path, source: Path, tmp_path: Path) -> None:
    """In another order: experts and towers are found by the names of tasks."""
    tasks = [
        {"name": "new", "kind": "binary", "label": "click"},
        {"name": "click", "kind": "binary", "label": "click"},
        {"name": "watch", "kind": "regression", "label": "watch"},
        {"name": "rare", "kind": "binary", "label": "rare"},
    ]
    now = begun(dataset, source, tmp_path / "run", tasks=tasks)
    before = read_weights(source, 1024)
    tower, experts = "model.head.towers.logit.weight", "model.head.levels.0.experts.layers.0.weight"
    places = {"watch": (0, 2), "click": (1, 1), "rare": (2, 3)}
    for old, new in places.values():
        assert torch.equal(before[tower][old], now[tower][new])
        assert torch.equal(before[experts][2 * old : 2 * old + 2], now[experts][2 * new : 2 * new + 2])
    assert torch.equal(before[experts][6], now[experts][8])  # the shared one
    assert not torch.equal(before[tower][0], now[tower][0])

    taken, note = parts_of(tmp_path / "run")["head"]
    assert taken.endswith(" weights")
    assert "levels.0.experts.new 0.0.weight" in note


def test_gates_that_other_features_set_begin_fresh(dataset: Path, tmp_path: Path) -> None:
    """Though they are as wide; the networks that they scale are taken."""
    model = {"head": "pepnet", "levels": [[16], [8]], "tower": [8], "gate_width": 8, "gate_features": ["video"]}
    sections = {"run": {"dir": str(tmp_path / "before")}, "train": {"samples": 128}}
    values = config_values(dataset, **sections) | {"model": model}
    run_on_ranks(1, _train, parse_config(values, "test"))
    before = read_weights(tmp_path / "before", 128)

    for features, is_taken in ((["video"], True), (["recent"], False)):
        run = tmp_path / features[0]
        values = config_values(dataset, run={"dir": str(run)}, init={"from": str(tmp_path / "before")})
        values["model"] = model | {"gate_features": features}
        run_on_ranks(1, begin, parse_config(values, "test"))
        now = read_weights(run, 0)
        for name in ("inner.weight", "epnet.outer.weight"):
            assert torch.equal(before[f"model.head.{name}"], now[f"model.head.{name}"]) == is_taken
        for name in ("outer.0.weight", "trunk.layers.0.weight"):
            assert torch.equal(before[f"model.head.{name}"], now[f"model.head.{name}"])
    assert parts_of(run)["head"][1].startswith("fresh: epnet.inner.0.weight")


def test_embeddings_of_tasks_are_taken_for_the_same_tasks_alone(dataset: Path, tmp_path: Path) -> None:
    values = config_values(dataset, run={"dir": str(tmp_path / "before")}, train={"samples": 128})
    values["model"] = {"head": "stem", "levels": [[16], [8]], "tower": [8]}
    run_on_ranks(2, _train, parse_config(values, "test"))
    before = read_weights(tmp_path / "before", 128)
    assert before[USER].shape == (50, 4 * 8)  # three tasks, and what they share

    init = {"from": str(tmp_path / "before")}
    for name, tasks, is_taken in (("same", values["tasks"], True), ("turned", values["tasks"][::-1], False)):
        now_values = values | {"run": {"dir": str(tmp_path / name)}, "init": init, "tasks": tasks}
        run_on_ranks(1, begin, parse_config(now_values, "test"))
        now = read_weights(tmp_path / name, 0)
        assert torch.equal(before[USER], now[USER]) == is_taken
        assert torch.equal(before[USER_STATE], now[USER_STATE]) == is_taken
    parts = parts_of(tmp_path / "turned")
    assert parts["table user"] == ("–", "its rows hold embeddings for other tasks in the source")
    assert parts["head"][1].startswith("fresh: levels.0.experts.")
    now_values = values | {"run": {"dir": str(tmp_path / "adatt")}, "init": init, "model": {"head": "adatt"}}
    run_on_ranks(1, begin, parse_config(now_values, "test"))
    assert parts_of(tmp_path / "adatt")["table user"] == parts["table user"]


@pytest.mark.parametrize("freeze", [["user"], ["*"]])
def test_frozen_tables_stay_as_they_are(dataset: Path, source: Path, tmp_path: Path, freeze: list[str]) -> None:
    init = {"from": str(source), "freeze": freeze}
    run_on_ranks(2, _train, make_config(dataset, run={"dir": str(tmp_path / "run")}, init=init))
    before, now = read_weights(source, 1024), read_weights(tmp_path / "run", 1024)
    assert torch.equal(before[USER], now[USER])
    assert torch.equal(before[VIDEO], now[VIDEO]) == (freeze == ["*"])
    assert not torch.equal(before["model.head.towers.logit.weight"], now["model.head.towers.logit.weight"])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no run": ({"init": {"from": "nowhere"}}, "no run is there; name a folder that"),
    "grown and hashed": (
        {"tables": [{"name": "user", "rows": 50, "dim": 8}, {"name": "video", "rows": 65, "dim": 4}]},
        "init.tables: table 'video' has 65 rows here, 64 in",
    ),
    "shrunk": (
        {"tables": [{"name": "user", "rows": 50, "dim": 8}, {"name": "video", "rows": 63, "dim": 4}]},
        "init.tables: table 'video' has 63 rows here, 64 in",
    ),
    "hashed now": (
        {"features": {"sparse": [{"column": "user", "table": "user", "hash": True}]}},
        "feature 'user' of table 'user' has hash = True here, False in",
    ),
    "frozen and fresh": (
        {
            "init": {"freeze": ["video"]},
            "tables": [{"name": "user", "rows": 50, "dim": 8}, {"name": "video", "rows": 64, "dim": 8}],
        },
        "init.freeze: table 'video' is not taken (its dim is 4 in the source, 8 here)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_meet_other_rows_is_refused(dataset: Path, source: Path, tmp_path: Path, case: str) -> None:
    sections, expected = REFUSED[case]
    init = {"from": str(source), **sections.get("init", {})}
    if case == "hashed now":
        sections = {**sections, "tables": [{"name": "user", "rows": 50, "dim": 8}]}
    config = make_config(dataset, **{**sections, "run": {"dir": str(tmp_path / "run")}, "init": init})
    messages = run_on_ranks(2, train_or_explain, config)
    assert all(expected in str(message) for message in messages), messages
    assert not (tmp_path / "run" / "config.toml").exists()


VOCABULARY = [
    {"column": "user", "table": "user"},
    {"column": "video", "table": "video", "vocabulary": "auto", "unknown_rows": 2},
]


def _with_vocabulary(folder: Path, run: Path, rows: int, **sections: Any) -> Config:
    features = {"sparse": sections.pop("sparse", VOCABULARY)}
    tables = [{"name": "user", "rows": 50, "dim": 8}, {"name": "video", "rows": rows, "dim": 4}]
    return make_config(folder, run={"dir": str(run)}, features=features, tables=tables, **sections)


def test_ids_of_a_vocabulary_keep_their_rows(dataset: Path, tmp_path: Path) -> None:
    """New ids follow, as far as the table has rows; a file of ids has to begin with the source's."""
    first, then = tmp_path / "first", tmp_path / "then"
    run_on_ranks(1, _train, _with_vocabulary(dataset, first, 64, train={"samples": 256}))
    table = pq.read_table(dataset / "train")
    videos = [f"w{row % 40}" if row % 2 else name for row, name in enumerate(table["video"].to_pylist())]
    (tmp_path / "data").mkdir()
    for use in ("train", "test"):
        pq.write_table(table.set_column(table.column_names.index("video"), "video", [videos]), tmp_path / "data" / use)
    init = {"from": str(first)}
    run_on_ranks(2, begin, _with_vocabulary(tmp_path / "data", then, 64, init=init))

    known, grown = (read_vocabulary(str(run / "vocabularies" / "video.parquet"), 2) for run in (first, then))
    assert (len(known), len(grown)) == (30, 50)  # the odd ones of w0 … w39
    assert grown.values[:30].equals(known.values)
    before, now = read_weights(first, 256), read_weights(then, 0)
    assert torch.equal(before[VIDEO], now[VIDEO])

    run_on_ranks(1, begin, _with_vocabulary(tmp_path / "data", tmp_path / "small", 66, init={"from": str(then)}))
    assert len(read_vocabulary(str(tmp_path / "small" / "vocabularies" / "video.parquet"), 2)) == 50

    pq.write_table(pa.table({"value": known.values[::-1]}), tmp_path / "ids.parquet")
    by_file = [VOCABULARY[0], {**VOCABULARY[1], "vocabulary": str(tmp_path / "ids.parquet")}]
    config = _with_vocabulary(dataset, tmp_path / "other", 64, sparse=by_file, init=init)
    (message,) = run_on_ranks(1, train_or_explain, config)
    assert "the vocabulary of table 'video' does not begin with that of" in str(message)


def test_errors_name_the_key(dataset: Path, source: Path, tmp_path: Path) -> None:
    run = {"dir": str(tmp_path / "run")}
    config = make_config(dataset, run=run, init={"from": str(source), "checkpoint": "best:lik"})
    (message,) = run_on_ranks(1, train_or_explain, config)
    assert "init.checkpoint = best:lik: no task 'lik'" in str(message)
    with pytest.raises(ConfigError, match=r"init.from: '.*/run' is this run's own folder"):
        make_config(dataset, run=run, init={"from": run["dir"]})
