"""Arguments and options that several commands share, and the numbers that their tables show."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from data.discovery.source import Source
    from trainer.config.run_config import Config

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="TOML file of the run; see docs/configuration.md.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key: a TOML value or a bare word. May be repeated."),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Folder that `adatt train` wrote.")]
CheckpointOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Samples of a checkpoint, a milestone or count such as 20k, latest, or best:TASK (lowest NE or MSE).",
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Only these Hive partitions of --data, as in 'dt >= 2022-05-05'."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]


def chosen_source(data: str | None, where: str | None) -> "Source | None":
    """The dataset of `--data` and `--where`, None if neither is given; raises ExpectedError for the second alone."""
    from data.errors import ExpectedError

    if data is not None:
        return data_source(data, where)
    if where is not None:
        raise ExpectedError("--where chooses partitions of --data; name that too")
    return None


def data_source(data: str, where: str | None) -> "Source":
    """The dataset that `--data` and `--where` name; raises ExpectedError if the latter is not readable."""
    from data.discovery.source import source_of
    from data.discovery.where import parse_where
    from data.errors import ExpectedError

    if where is not None:
        try:
            parse_where(where)
        except ValueError as error:
            raise ExpectedError(f"--where {error}") from error
    return source_of(data, where)


def config_at(path: str, changes: list[str] | None) -> Callable[[], "Config"]:
    """Loads a config file, and the libraries that training needs: a node may lack one."""

    def load() -> "Config":
        from trainer.config.load import load_config

        config = load_config(path, changes)
        import trainer.train  # noqa: F401

        return config

    return load


def config_of(run: str) -> Callable[[], "Config"]:
    """Loads the config of a run, and the libraries that its model needs."""

    def load() -> "Config":
        from trainer.run.directory import RunDirectory

        config = RunDirectory(run).read_config()
        import trainer.evaluation.evaluate_run  # noqa: F401

        return config

    return load
