"""A training whose wrong input is a result, as the tests of several files want it."""

from data.errors import ExpectedError
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.train import train


def train_or_explain(world: World, config: Config) -> str | None:
    """What is wrong with the input, in the words of the error; None: it was trained."""
    try:
        train(config, world)
    except ExpectedError as error:
        return str(error)
    return None
