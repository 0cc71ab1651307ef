"""TensorBoard has all of a run: numbers, figures, config and plan, its line among others; a profile opens."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.run.directory import RunDirectory
from trainer.train import train


def _train(world: World, config: Config) -> None:
    train(config, world, profile=True)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("board") / "run"
    config = make_config(dataset, run={"dir": str(folder)}, train={"samples": 1024}, evaluate={"at_samples": [832]})
    run_on_ranks(2, _train, config)
    return RunDirectory(folder)


def test_tensorboard_is_complete(run: RunDirectory) -> None:
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    tags = board.Tags()
    scalars = {"train/loss", "train/ne/click", "train/gate_entropy/0/shared", "evaluation/ne/click", "final/ne/click"}
    assert scalars <= set(tags["scalars"])
    assert [event.step for event in board.Scalars("evaluation/ne/click")] == [832, 1024]
    assert [event.step for event in board.Images("fusion")] == [832, 1024]
    (text,) = board.Tensors("config/text_summary")
    assert b'head = "adatt"' in text.tensor_proto.string_val[0]
    (plan,) = board.Tensors("plan/text_summary")
    assert b"user: 50 x 8" in plan.tensor_proto.string_val[0]
    assert "_hparams_/session_start_info" in board.summary_metadata


def test_fusion_is_drawn_too(run: RunDirectory) -> None:
    for samples in (832, 1024):
        assert run.fusion_file(samples).with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_every_rank_leaves_a_trace_of_its_steps(run: RunDirectory) -> None:
    traces = sorted(run.profile.iterdir())
    assert [path.name.split(".")[0] for path in traces] == ["rank-0", "rank-1"]
    for path in traces:
        names = [event.get("name", "") for event in json.loads(path.read_text())["traceEvents"]]
        assert len({name for name in names if name.startswith("## forward")}) == 3
        assert any("## backward" in name for name in names)
