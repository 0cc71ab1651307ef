"""A training whose wrong input is a result, as the tests of several files want it."""

from data.errors import UserError
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.train import train


def train_or_explain(world: World, config: Config) -> str | None:
    """What is wrong with the input, in the words of the error; None: it was trained."""
    try:
        train(config, world)
    except UserError as error:
        return str(error)
    return None
