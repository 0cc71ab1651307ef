"""What `adatt stats` finds, on any number of ranks."""

from collections.abc import Callable
from dataclasses import dataclass

from data.columns.decode import Columns
from data.discovery.source import Source, source_of
from data.errors import ExpectedError
from data.manifest import Manifest
from data.profile.dataset import DatasetProfile
from data.profile.stored import store_counts
from data.profile.summary import Summary, summarise
from data.settings import Settings
from trainer.config.load import load_config
from trainer.config.run_config import Config, RunConfig
from trainer.datasets import build_columns
from trainer.distributed.world import World
from trainer.proposal.hashed import Sharing, sharing
from trainer.proposal.inspect import profiled_by_all


class StatsRequest(Settings):
    """The training data of a config and the columns that it names, or a dataset with all of its columns."""

    source: str
    where: str | None
    config: Config | None
    run: RunConfig

    @property
    def data(self) -> Source:
        """The dataset."""
        return source_of(self.source, self.where) if self.config is None else self.config.data.train_source

    @property
    def columns(self) -> Columns | None:
        """Those of the config."""
        return None if self.config is None else build_columns(self.config)


@dataclass(frozen=True)
class Stats:
    """Of a dataset."""

    manifest: Manifest
    profile: DatasetProfile
    summaries: list[Summary]
    sharing: list[Sharing]
    """Of the config's tables with hashed ids."""
    stored: str | None
    """Where the counts were stored."""


def request_of(source: str, where: str | None) -> Callable[[], StatsRequest]:
    """Loads the config, if `source` is one."""

    def load() -> StatsRequest:
        if not source.endswith(".toml"):
            return StatsRequest(source=source, where=where, config=None, run=RunConfig(dir="."))
        if where is not None:
            raise ExpectedError("--where is for a URI; a config has its own data.where")
        config = load_config(source)
        return StatsRequest(source=source, where=None, config=config, run=config.run)

    return load


def find_stats(request: StatsRequest, world: World) -> Stats | None:
    """Looks at the dataset, and stores its counts; None on other ranks than 0. Collective: call on all ranks."""
    columns = request.columns
    manifest, profile = profiled_by_all(request.data, None if columns is None else columns.names, world)
    if not world.is_rank_zero:
        return None
    found = [] if columns is None else list(sharing(profile, columns))
    return Stats(manifest, profile, summarise(profile, manifest), found, store_counts(manifest, profile))
