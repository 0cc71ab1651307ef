"""Evaluates a checkpoint of a run, on any dataset and any number of ranks."""

from typing import Any

from data.manifest import Manifest
from data.storage.manifest_file import load_manifest
from trainer.build_model import build_sharded_model
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.selection import checkpoint_name
from trainer.clock import Due
from trainer.config.run_config import Config
from trainer.console import tell
from trainer.datasets import check_lanes, check_same_kinds, open_dataset, test_reading
from trainer.distributed.world import World
from trainer.errors import DISK_FULL
from trainer.evaluation.bucket_sums import Buckets, read_buckets, write_buckets
from trainer.evaluation.evaluator import Evaluation, Evaluator
from trainer.run.directory import RunDirectory
from trainer.run.origin import origin_of, read_identity


def evaluate_run(
    path: str, checkpoint: str, data: str | None, world: World, unit: str | None = None
) -> list[dict[str, Any]]:
    """Records as in evaluations.jsonl; keeps the sums of the buckets in the run. Collective: call on all ranks.

    `unit` takes the place of the config's `evaluate.unit`; empty: rows are taken as independent.
    """
    run = RunDirectory(path)
    config = _with_unit(world.on_rank_zero(run.read_config), unit)
    check_lanes(config, world)
    world.on_rank_zero(run.check_entries)
    checkpoints = Checkpoints(run.checkpoints, world, world.on_rank_zero(lambda: origin_of(run, config)))
    state = checkpoints.find(world.on_rank_zero(lambda: checkpoint_name(checkpoint, run, config)))
    manifest = open_dataset(config.data.test if data is None else data, config, world)
    world.on_rank_zero(lambda: check_same_kinds(load_manifest(run.manifests["train"]), manifest, config))
    sharded = build_sharded_model(config, world, config.train.samples, saves=False)
    checkpoints.load(state, sharded.model, None)
    found = Evaluator(config, world, sharded, test_reading(config, manifest, world.size)).run(state.samples)
    is_asked = unit is not None or config.evaluate.unit is not None
    world.on_rank_zero(lambda: _keep(run, config, state.samples, manifest, found, is_asked))
    if world.is_rank_zero:
        for line in found.warnings:
            tell("warning", line)
    return found.records


def _with_unit(config: Config, unit: str | None) -> Config:
    if unit is None:
        return config
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"unit": unit or None})})


def _keep(
    run: RunDirectory, config: Config, samples: int, manifest: Manifest, found: Evaluation, is_asked: bool
) -> None:
    """Writes the sums where `adatt compare` finds them.

    Those that training has written stay, unless a unit is asked for (`is_asked`) which is not theirs.
    """
    path, unit = run.evaluations_on(manifest.fingerprint) / f"{samples}.parquet", config.evaluate.unit
    if path == run.buckets_file(samples) and path.exists() and not (is_asked and read_buckets(path).unit != unit):
        return
    identity = read_identity(run)
    due = Due(batch=config.data.global_batch_size, end=samples)
    reached = [entry for entry in config.evaluate.at_samples if entry.samples <= samples]
    milestones = [entry.text for entry in reached if due.boundary(entry.samples) == samples]
    try:
        buckets = Buckets(samples, milestones, manifest.fingerprint, {}, unit, identity)
        write_buckets(path, found.sums, config.tasks, buckets)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        tell("warning", f"{path} cannot be written ({error.strerror}): `adatt compare` will not find this")
