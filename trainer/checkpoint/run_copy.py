"""The records of a run beside its checkpoints, where `checkpoint.dir` names a place for these.

    DIR/owner.json     which run, and which start of it, writes there
    DIR/run/           a copy of RUN but for checkpoints, traces and profiles

So a run goes on, and is audited, on nodes that have never seen its folder. The copy is made at each start, before each
checkpoint becomes visible, and at the end.
"""

import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from threading import Lock

from pydantic import TypeAdapter, ValidationError

from data.errors import ExpectedError
from data.storage.files import replaced
from data.storage.parsing import parse_json, parse_toml
from data.storage.stored_files import StoredFiles, reason
from trainer.checkpoint.store import answering
from trainer.config.compatibility import differences
from trainer.config.load import parse_config
from trainer.config.measured import complete_from
from trainer.config.run_config import Config
from trainer.console import tell
from trainer.errors import CheckpointError, ConfigError, RunError
from trainer.run.directory import RunDirectory
from trainer.run.lock import TakenOverError
from trainer.run.origin import read_identity
from trainer.run.starts import RunStart, parse_starts, read_starts

OWNER_FILE = "owner.json"
FOLDER = "run"
_NOT_COPIED = ("checkpoints", "trace", "profile", "lock")
_TOKEN_BYTES = 8


@dataclass(frozen=True)
class Owner:
    """Who writes checkpoints in a place."""

    run: str
    """Id of the run."""
    start: str
    """Random, of each start."""
    host: str
    since: str


class RunCopy:
    """Used on rank 0 only."""

    def __init__(self, files: StoredFiles, run: RunDirectory) -> None:
        self._files = files
        self._run = run
        self._token = secrets.token_hex(_TOKEN_BYTES)
        self._copied: dict[Path, tuple[int, int]] = {}
        """Time of modification (ns) and bytes of each file as it was copied."""
        self._lock = Lock()
        self._is_new_here = False
        """Whether RUN has its records from the copy alone, and this start has not begun."""

    def is_ahead(self, config: Config) -> bool:
        """Whether RUN lacks starts that the copy knows: nothing, or less, was done on this node.

        Raises ConfigError if the place belongs to another run, or to a run of another config.
        """
        owner = self._owner()
        if owner is None:
            return False

        identity = read_identity(self._run)
        if identity is not None and identity != owner.run:
            raise ConfigError(
                f"{self._where} holds the checkpoints of another run (its id is {owner.run!r}, not {identity!r}); name "
                "another place"
            )
        if identity is None:
            self._check_config(config)

        here = [_beginning(start) for start in read_starts(self._run.segments)]
        there = [_beginning(start) for start in self._starts()]
        return here[: len(there)] != there

    def restore(self) -> None:
        """Puts the records into RUN, in place of those that are there."""
        self._is_new_here = not self._run.config_file.exists()
        for name in self._names():
            path = self._run.path.joinpath(*PurePosixPath(name).parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            data = self._read(f"{FOLDER}/{name}")
            with replaced(path) as file:
                file.write(data)

    def undo(self, kind: type[BaseException] | None, *_: object) -> None:
        """At the end of a start: one that has failed before it began leaves no records where there were none."""
        if kind is not None and self._is_new_here:
            shutil.rmtree(self._run.path, ignore_errors=True)

    def claim(self, identity: str) -> None:
        """Copies the records, and says that from here on this start writes there."""
        owner = Owner(identity, self._token, socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
        with answering(self._files.where(OWNER_FILE)):
            self._copy()
            self._files.write(OWNER_FILE, json.dumps(asdict(owner)).encode())
        self._is_new_here = False

    def keep_last(self) -> None:
        """At the end of a start, however it ends."""
        try:
            self.keep()
        except TakenOverError:  # has been told already, or the newer start has all that it needs
            return
        except (ExpectedError, RunError) as error:
            tell("warning", str(error))

    def keep(self) -> None:
        """Copies what has changed; raises CheckpointError if it cannot, and TakenOverError of another owner."""
        try:
            owner = self._owner()
            if owner is None or owner.start != self._token:
                by = f"by a start on host {owner.host} at {owner.since}" if owner else "by nobody we know"
                raise TakenOverError(f"{self._where} has been taken over {by}; this start ends")
            self._copy()
        except OSError as error:
            raise CheckpointError(f"{self._files.where(FOLDER)}: records not copied ({reason(error)})") from error

    @property
    def _where(self) -> str:
        return f"checkpoint.dir = {self._files.uri!r}"

    def _owner(self) -> Owner | None:
        try:
            text = self._read(OWNER_FILE)
        except FileNotFoundError:
            return None
        try:
            return TypeAdapter(Owner).validate_python(parse_json(text))
        except (ValueError, ValidationError) as error:
            raise ConfigError(f"{self._files.where(OWNER_FILE)}: damaged; restore it, or name another place") from error

    def _check_config(self, config: Config) -> None:
        """Raises ConfigError if the run there has another config; nothing is here yet that would tell."""
        where = self._files.where(f"{FOLDER}/config.toml")
        try:
            before = parse_config(parse_toml(self._read(f"{FOLDER}/config.toml").decode()), where)
        except FileNotFoundError as error:
            raise ConfigError(f"{where}: is missing; restore it, or name another place") from error
        except ValueError as error:
            raise ConfigError(f"{where}: cannot be read ({error}); restore it, or name another place") from error

        refused = [
            change
            for change in differences(before, complete_from(config, before))
            if change[0] not in config.run.allow_change
        ]
        if refused:
            key, old, new = refused[0]
            raise ConfigError(
                f"{self._where} holds the checkpoints of a run of another config: {key} was {old}, now {new}; name "
                "another place, or resume with its own config"
            )

    def _starts(self) -> list[RunStart]:
        """Those that the copy knows."""
        name = f"{FOLDER}/{self._run.segments.name}"
        where = self._files.where(name)
        try:
            return parse_starts(self._read(name).decode(), where)
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: is missing or damaged; restore it, or name another place") from error

    def _names(self) -> list[str]:
        """Of all files of the copy; ConfigError if one would lie elsewhere."""
        with answering(self._files.where(FOLDER)):
            found = self._files.names(FOLDER, recursive=True)
        names = [name for name, is_file in found.items() if is_file]
        for name in names:
            if ".." in PurePosixPath(name).parts:
                raise ConfigError(f"{self._files.where(f'{FOLDER}/{name}')}: is no record of a run; remove it")
        return names

    def _read(self, name: str) -> bytes:
        with answering(self._files.where(name)):
            return self._files.read(name)

    def _copy(self) -> None:
        with self._lock:
            for path in _records(self._run.path):
                state = path.stat()
                version = (state.st_mtime_ns, state.st_size)
                if self._copied.get(path) != version:
                    name = path.relative_to(self._run.path).as_posix()
                    self._files.write(f"{FOLDER}/{name}", path.read_bytes())
                    self._copied[path] = version


def _records(folder: Path) -> Iterator[Path]:
    """Files of a run that are copied."""
    for parent, folders, names in os.walk(folder):
        if parent == str(folder):
            folders[:] = [name for name in folders if name not in _NOT_COPIED]
            names = [name for name in names if name not in _NOT_COPIED]
        yield from (Path(parent, name) for name in sorted(names) if not name.endswith(".partial"))


def _beginning(start: RunStart) -> RunStart:
    """What of a start never changes."""
    return start.model_copy(update={"reached": 0, "end": None})
