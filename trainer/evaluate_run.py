"""Evaluates a checkpoint of a run, on any dataset and any number of ranks."""

from typing import Any

from trainer.build import build_trainee, check_lanes, open_dataset, test_reading
from trainer.checkpoint import Checkpoints
from trainer.evaluate import Evaluator
from trainer.run_directory import RunDirectory
from trainer.world import World


def evaluate_run(path: str, checkpoint: str, data: str | None, world: World) -> list[dict[str, Any]]:
    """Records as in evaluations.jsonl. Collective: call on all ranks."""
    run = RunDirectory(path)
    config = world.on_first(run.read_config)
    check_lanes(config, world)
    checkpoints = Checkpoints(run.checkpoints, world)
    state = checkpoints.find(checkpoint)
    manifest = open_dataset(data or config.data.test, config, world)
    trainee = build_trainee(config, world, config.train.samples)
    checkpoints.load(state, trainee.model, None)
    return Evaluator(config, world, trainee, test_reading(config, manifest)).run(state.samples).records
