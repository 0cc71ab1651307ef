"""Evaluates a checkpoint of a run, on any dataset and any number of ranks: `adatt evaluate`."""

from data.discovery.source import Source
from trainer.checkpoint.trained_run import open_trained_run
from trainer.clock import Due
from trainer.config.run_config import Config
from trainer.console import tell
from trainer.datasets import test_reading
from trainer.distributed.world import World
from trainer.errors import DISK_FULL, ConfigError
from trainer.evaluation.bucket_sums import read_buckets
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.result import EvaluationResult, sums_file, write_evaluation
from trainer.run.directory import RunDirectory
from trainer.run.origin import read_identity
from trainer.run.records import Evaluation


def evaluate_run(
    path: str, checkpoint: str, data: str | Source | None, world: World, unit: str | None = None
) -> list[Evaluation]:
    """Evaluates a checkpoint of the run at `path`; returns records as in evaluations.jsonl.

    The bucket sums are kept in the run, for `adatt compare`. `data` is a dataset, the config's test set if left out.
    `unit` replaces the config's `evaluate.unit`; if it is empty, rows are taken as independent. Collective: call on
    all ranks.
    """
    trained = open_trained_run(path, world)
    run = trained.run
    config = _with_unit(trained.config, unit)
    # Rank 0 alone reads and writes the run's folder, here and below.
    world.on_rank_zero(run.check_entries)

    state = trained.find_checkpoint(checkpoint)
    source = config.data.test_source if data is None else data
    if source is None:
        raise ConfigError(f"{run.path}: its config names no data.test; name a dataset with --data")
    manifest = trained.open_dataset(source, config)
    sharded = trained.load(state)
    reading = test_reading(config, manifest, world.size, trained.vocabularies)
    result = Evaluator(config, world, sharded, reading).run(state.samples)

    is_unit_given = unit is not None or config.evaluate.unit is not None
    world.on_rank_zero(lambda: _keep_sums(run, config, result, is_unit_given))
    if world.is_rank_zero:
        for line in result.warnings:
            tell("warning", line)

    return result.records


def _with_unit(config: Config, unit: str | None) -> Config:
    """The config with another `evaluate.unit`, if one is given."""
    if unit is None:
        return config
    evaluate = config.evaluate.model_copy(update={"unit": unit or None})
    return config.model_copy(update={"evaluate": evaluate})


def _keep_sums(run: RunDirectory, config: Config, result: EvaluationResult, is_unit_given: bool) -> None:
    """Writes the sums into the folder that `adatt compare` reads.

    A full disk is an error; if the file cannot be written for another reason, there is a warning.
    Sums that training has written stay, unless a unit is given (`is_unit_given`) that is not theirs.
    """
    path = sums_file(run, result)
    if path == run.buckets_file(result.samples) and path.exists():
        is_other_unit = is_unit_given and read_buckets(path).unit != result.unit
        if not is_other_unit:
            return

    milestones = _milestones_at(result.samples, config)
    identity = read_identity(run)

    try:
        write_evaluation(run, result, milestones, identity, sums_only=True)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        tell("warning", f"{path} cannot be written ({error.strerror}): `adatt compare` will not find this")


def _milestones_at(samples: int, config: Config) -> list[str]:
    """Texts of the milestones that training reaches exactly at this checkpoint."""
    due = Due(batch=config.data.global_batch_size, end=samples)
    reached = [milestone for milestone in config.evaluate.at_samples if milestone.samples <= samples]
    return [milestone.text for milestone in reached if due.boundary(milestone.samples) == samples]
