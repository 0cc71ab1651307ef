"""Training and evaluation as the tests of several files want them: wrong input and records as results."""

from typing import Any

from data.errors import ExpectedError
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.evaluation.evaluate_run import evaluate_run
from trainer.train import train


def train_or_explain(world: World, config: Config) -> str | None:
    """What is wrong with the input, in the words of the error; None: it was trained."""
    try:
        train(config, world)
    except ExpectedError as error:
        return str(error)
    return None


def evaluation_records(
    run: str, checkpoint: str, data: str | None, world: World, unit: str | None = None
) -> list[dict[str, Any]]:
    """What `evaluate_run` returns, as it stands in evaluations.jsonl. Collective: call on all ranks."""
    return [record.model_dump() for record in evaluate_run(run, checkpoint, data, world, unit)]
