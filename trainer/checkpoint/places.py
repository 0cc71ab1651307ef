"""Where the checkpoints of a run are: in its folder, or where `checkpoint.dir` says. Who looks for them asks here."""

import secrets
from contextlib import suppress
from pathlib import Path

from data.storage.stored_files import StoredFiles
from trainer.checkpoint.folder import CheckpointFolder
from trainer.checkpoint.run_copy import RunCopy
from trainer.checkpoint.storage import LocalFolder
from trainer.checkpoint.store import StoreFolder, answering
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.directory import TOKEN, RunDirectory
from trainer.run.shared_storage import check_shared

_KEY = "checkpoint.dir"
CONFIG_FILE = "config.toml"


def checkpoint_folder(run: RunDirectory, config: Config) -> CheckpointFolder:
    """The checkpoints of a run; nothing is looked at yet. Raises DataError if nothing opens the URI."""
    place = config.checkpoint.dir
    if place is None:
        return LocalFolder(run.checkpoints)
    files = StoredFiles(place, _KEY)
    return LocalFolder(Path(files.root)) if files.is_local else StoreFolder(files)


def run_copy(run: RunDirectory, config: Config) -> RunCopy | None:
    """The records of a run beside its checkpoints; None where these are in its own folder."""
    place = config.checkpoint.dir
    return None if place is None else RunCopy(StoredFiles(place, _KEY), run)


def check_place(config: Config, world: World) -> None:
    """Raises an ExpectedError, or a RunError where a store does not answer, if not all ranks can use `checkpoint.dir`.

    Collective: call on all ranks.
    """
    place = config.checkpoint.dir
    if place is None:
        return

    files = world.raise_on_all_ranks(lambda: StoredFiles(place, _KEY))
    if files.is_local:
        check_shared(Path(files.root), world, _KEY)
    else:
        _check_store(files, world)
    world.on_rank_zero(lambda: _refuse_run_folder(files, config))


def _refuse_run_folder(files: StoredFiles, config: Config) -> None:
    """Raises ConfigError if the place is the folder of a run, or the copy of one: their files would mix."""
    is_own = files.is_local and Path(files.root).resolve() == Path(config.run.dir).resolve()
    with answering(files.uri):
        if is_own or files.existing([CONFIG_FILE]):
            raise ConfigError(
                f"{_KEY} = {files.uri!r} is the folder of a run, or the copy of one in such a place; name a folder of "
                f"its own, or leave {_KEY} out: checkpoints are in run.dir then"
            )


def _check_store(files: StoredFiles, world: World) -> None:
    """Every node writes an object, and reads that of rank 0; they are removed again."""
    token = world.on_rank_zero(lambda: f"{TOKEN}{secrets.token_hex(8)}")
    own = f"{token}-{world.rank}"
    written: list[str] = []

    def write() -> None:
        if world.local_rank == 0:
            with answering(files.uri):
                files.write(own, b"")
            written.append(own)

    def read() -> None:
        if world.local_rank == 0:
            with answering(files.uri):
                seen = files.existing([f"{token}-0"])
            if not seen:
                raise ConfigError(f"{_KEY} = {files.uri!r} of {world.name} is not that of rank 0; name one for all")

    try:
        world.raise_on_all_ranks(write)
        world.raise_on_all_ranks(read)
    finally:
        for name in written:
            with suppress(OSError):
                files.delete(name)
