"""Evaluates a checkpoint of a run, on any dataset and any number of ranks."""

import sys
from typing import Any

from data.manifest import Manifest
from trainer.buckets import Buckets, write_buckets
from trainer.build import build_trainee, check_lanes, open_dataset, test_reading
from trainer.checkpoint import Checkpoints
from trainer.clock import Due
from trainer.config import Config
from trainer.errors import DISK_FULL
from trainer.evaluate import Evaluation, Evaluator, undefined_metrics
from trainer.run_directory import RunDirectory
from trainer.world import World


def evaluate_run(path: str, checkpoint: str, data: str | None, world: World) -> list[dict[str, Any]]:
    """Records as in evaluations.jsonl; keeps the sums of the buckets in the run. Collective: call on all ranks."""
    run = RunDirectory(path)
    config = world.on_first(run.read_config)
    check_lanes(config, world)
    checkpoints = Checkpoints(run.checkpoints, world)
    state = checkpoints.find(checkpoint)
    manifest = open_dataset(data or config.data.test, config, world)
    trainee = build_trainee(config, world, config.train.samples)
    checkpoints.load(state, trainee.model, None)
    found = Evaluator(config, world, trainee, test_reading(config, manifest, world.size)).run(state.samples)
    world.on_first(lambda: _keep(run, config, state.samples, manifest, found))
    if world.first:
        sys.stderr.writelines(f"warning: {line}\n" for line in undefined_metrics(found.records))
    return found.records


def _keep(run: RunDirectory, config: Config, samples: int, manifest: Manifest, found: Evaluation) -> None:
    """Writes the sums where `adatt compare` finds them, unless training itself has."""
    path = run.evaluations_on(manifest.fingerprint) / f"{samples}.parquet"
    if path == run.buckets_file(samples) and path.exists():
        return
    due = Due(batch=config.data.global_batch_size, end=samples)
    reached = [entry for entry in config.evaluate.at_samples if entry.samples <= samples]
    milestones = [entry.text for entry in reached if due.boundary(entry.samples) == samples]
    try:
        write_buckets(path, found.sums, config.tasks, Buckets(samples, milestones, manifest.fingerprint, {}))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        sys.stderr.write(f"warning: {path} cannot be written ({error.strerror}): `adatt compare` will not find this\n")
