"""A run that is opened to use its model: by `adatt evaluate` and `predict`, and to begin another with its weights."""

from dataclasses import dataclass

from data.discovery.source import Source
from data.manifest import Manifest
from data.storage.manifest_file import load_manifest
from trainer.build_model import ShardedModel, build_sharded_model
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.places import checkpoint_folder
from trainer.checkpoint.selection import checkpoint_name
from trainer.checkpoint.state import State
from trainer.config.run_config import Config
from trainer.datasets import check_lanes, check_same_kinds, open_dataset
from trainer.distributed.world import World
from trainer.run.directory import RunDirectory
from trainer.run.origin import origin_of
from trainer.run.vocabularies import Vocabularies, kept_vocabularies


@dataclass(frozen=True)
class TrainedRun:
    """A run with its config, on the ranks of this process. Every method is collective: call it on all ranks.

    The order of use lets a wrong input end the command before the model is built, which may take minutes:

        open_dataset, find_checkpoint ──► the command's own checks ──► load
    """

    run: RunDirectory
    config: Config
    world: World
    checkpoints: Checkpoints
    vocabularies: Vocabularies

    def open_dataset(self, source: str | Source, config: Config) -> Manifest:
        """A dataset that has the columns of `config`, of the same kinds as in the run's training data.

        Raises an ExpectedError on all ranks if it has not.
        """
        check_lanes(self.config, self.world)
        manifest = open_dataset(source, config, self.world)
        # Rank 0 alone reads the run's folder, which other nodes need not see.
        self.world.on_rank_zero(lambda: check_same_kinds(load_manifest(self.run.manifests["train"]), manifest, config))
        return manifest

    def find_checkpoint(self, text: str, option: str = "--checkpoint") -> State:
        """The checkpoint that an option names, verified; raises CheckpointError if there is none."""
        name = self.world.on_rank_zero(lambda: checkpoint_name(text, self.run, self.config, option))
        return self.checkpoints.find(name)

    def load(self, state: State) -> ShardedModel:
        """The sharded model with the weights of a checkpoint, and without its optimizer's state."""
        sharded = build_sharded_model(self.config, self.world, state.samples, saves=False)
        self.checkpoints.load(state, sharded.model, None)
        return sharded


def open_trained_run(path: str, world: World) -> TrainedRun:
    """Opens the run at `path`; raises ConfigError if there is none. Collective: call on all ranks."""
    run = RunDirectory(path)
    config = world.on_rank_zero(run.read_config)
    origin = world.on_rank_zero(lambda: origin_of(run, config))
    vocabularies = world.on_rank_zero(lambda: kept_vocabularies(run))
    checkpoints = Checkpoints(checkpoint_folder(run, config), world, origin)
    return TrainedRun(run, config, world, checkpoints, vocabularies)
