"""The run's folder: what is in it, and whether it may be used.

RUN/config.toml          the resolved config
RUN/identity             a random id, which checkpoints, starts, evaluations and traces of this run hold too
RUN/lock                 which process trains, as long as one does
RUN/train.jsonl          one record per log point
RUN/evaluations.jsonl    one record per task and evaluation
RUN/evaluations/<samples>.parquet    sums of every bucket of test rows, for `adatt compare`
RUN/evaluations/<test set>/<samples>.parquet    the same, on other test sets: `adatt evaluate RUN --data URI`
RUN/fusion/<samples>.json, .png      mean fusion weights on the test set
RUN/conflicts/<samples>.json, .png   with balance: mean cosines between the gradients of the tasks
RUN/calibration/<samples>.json       calibration along the predictions on the test set
RUN/profile/             with `adatt train --profile`: a trace of a few steps of each rank
RUN/segments.jsonl       one record per start: from where, how far, on how many ranks
RUN/events.jsonl         what happened besides: checkpoints, rows and batches left out
RUN/vocabularies/<table>.parquet     the ids of tables with a vocabulary, in the order of their rows
RUN/manifests/           row groups of the training and the test set as they were at the first start
RUN/checkpoints/<samples>/           unless checkpoint.dir names another place
RUN/tensorboard/
RUN/trace/               with run.trace: the rows that each rank handed out
"""

import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w

from data.columns.vocabulary import Vocabulary
from data.errors import DataError
from data.manifest import Manifest, manifest_change
from data.profile.vocabularies import write_vocabulary
from data.storage.files import replace_text
from data.storage.manifest_file import load_manifest, save_manifest
from data.storage.parsing import parse_toml
from data.storage.paths import local_path
from trainer.config.changes import may_change, reason_against
from trainer.config.compatibility import differences, plain
from trainer.config.load import parse_config
from trainer.config.measured import complete_from
from trainer.config.run_config import Config
from trainer.errors import DISK_FULL, ConfigError
from trainer.run.entries import check_entries, check_use
from trainer.run.jsonl import read_records, rewrite_records
from trainer.run.lock import RunLock, not_usable

TOKEN = "token-"
"""How the name of a file begins by which the ranks find that they see one folder, at every start."""
_FIRST_FILES = {"lock", "config.partial", "vocabularies"}
"""All that a start leaves which ended before it had a config."""


class RunDirectory:
    """Paths of a run, and its records."""

    def __init__(self, path: str | Path) -> None:
        """Raises ConfigError if no folder on a disk can be called so."""
        try:
            self.path = local_path(path)
        except ValueError as error:
            raise ConfigError(f"run {error}") from error

        self.config_file = self.path / "config.toml"
        self.identity = self.path / "identity"
        self.lock = RunLock(self.path)
        self.train_log = self.path / "train.jsonl"
        self.evaluations = self.path / "evaluations.jsonl"
        self.segments = self.path / "segments.jsonl"
        self.events = self.path / "events.jsonl"
        manifests = self.path / "manifests"
        self.manifests = {use: manifests / f"{use}.parquet" for use in ("train", "test")}
        self.vocabularies = self.path / "vocabularies"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.trace = self.path / "trace"
        self.profile = self.path / "profile"

    def check(self, config: Config) -> None:
        """Raises ConfigError if the folder belongs to another config, is no run or cannot be used; writes nothing."""
        is_there = self._is_there()
        if is_there:
            check_entries(self.path)
            check_use(self._files, [self.path, *self._folders])

        if not self.config_file.exists():
            names = {entry.name for entry in self.path.iterdir()} if is_there else set()
            if {name for name in names if not name.startswith(TOKEN)} - _FIRST_FILES:
                raise ConfigError(f"run.dir = {str(self.path)!r} is not empty and holds no run; name another folder")
            return

        before = self.read_config()
        changes = differences(before, complete_from(config, before))
        refused = [change for change in changes if change[0] not in config.run.allow_change]
        if refused:
            key, old, new = refused[0]
            ways_out = "name another folder, remove this one to start over, or resume with its own config"
            if may_change(key):
                ways_out = f"allow it (--allow-change {key}), or resume with its own config"
            reason = reason_against(key)
            why = f" ({reason})" if reason else ""
            raise ConfigError(
                f"run.dir = {str(self.path)!r} holds a run of another config: {key} was {old}, now {new}{why}; "
                f"{ways_out} {self.config_file}"
            )

    def check_entries(self) -> None:
        """Raises ConfigError if writing into the folder would follow a link."""
        check_entries(self.path)

    @property
    def _files(self) -> list[Path]:
        logs = [self.train_log, self.evaluations, self.segments, self.events]
        return [self.config_file, self.identity, self.lock.path, *logs, *self.manifests.values()]

    @property
    def _folders(self) -> list[Path]:
        named = [self.path / name for name in ("evaluations", "fusion", "conflicts", "calibration", "vocabularies")]
        return [self.checkpoints, self.tensorboard, self.trace, self.profile, self.manifests["train"].parent, *named]

    def _is_there(self) -> bool:
        """Whether there is such a folder; raises ConfigError if something else is in its place, or above it."""
        try:
            if self.path.is_symlink() and not self.path.exists():
                raise ConfigError(f"run.dir = {str(self.path)!r} is a link that leads nowhere; make that folder")
            is_there = stat.S_ISDIR(self.path.stat().st_mode)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise not_usable(self.path, error) from error

        if not is_there:
            raise ConfigError(f"run.dir = {str(self.path)!r} is a file; name a folder")

        return True

    def check_test(self, test: Manifest | None, saved: list[str]) -> None:
        """Raises DataError if the test set is not the one that the run began with; it may be named or left out.

        `saved`: names of the run's checkpoints.
        """
        known = self.manifests["test"]
        if test is None:
            return
        if not known.exists():
            self.check_recorded("test", saved)
            return
        change = manifest_change(load_manifest(known), test)
        if change:
            what = f"data.test = {test.uri!r} has changed since the run in {str(self.path)!r} began"
            raise DataError(f"{what}: {change}; restore it, or train in another folder")

    def check_recorded(self, use: str, saved: list[str]) -> None:
        """Raises DataError if a run has checkpoints but no record any more of the data that they have seen."""
        manifest = self.manifests[use]
        if manifest.exists():
            return

        if saved and (use == "train" or self.read_config().data.test is not None):
            raise DataError(
                f"{manifest}: is missing, so nothing tells which rows the checkpoints of the run have seen; restore it "
                "from a copy"
            )

    @contextmanager
    def locked(self, patience_seconds: float = 0) -> Iterator[None]:
        """Context that makes the folder and keeps every other start out of it (`trainer.run.lock`)."""
        self._make(self.path)
        with self.lock.held(patience_seconds):
            yield

    def create(
        self, config: Config, train: Manifest, test: Manifest | None, vocabularies: dict[str, Vocabulary]
    ) -> None:
        """Writes the resolved config, vocabularies and manifests, and mends logs that a crash cut short."""
        for table, vocabulary in vocabularies.items():  # before the config, which says that they are there
            self._make(self.vocabularies)
            write_vocabulary(vocabulary, self.vocabulary_file(table))
        replace_text(self.config_file, tomli_w.dumps(plain(config)))
        own_checkpoints = [self.checkpoints] if config.checkpoint.dir is None else []
        traces = [self.trace] if config.run.trace else []
        for folder in (self.manifests["train"].parent, *own_checkpoints, *traces):
            self._make(folder)

        for use, manifest in (("train", train), ("test", test)):
            if manifest is not None:
                save_manifest(manifest, self.manifests[use])

        if self.events.exists():
            rewrite_records(self.events, read_records(self.events))

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise not_usable(self.path, error) from error

    def read_config(self) -> Config:
        """The resolved config of the run; raises ConfigError if the folder holds none."""
        try:
            text = self.config_file.read_text(encoding="utf-8-sig")
            return parse_config(parse_toml(text), str(self.config_file))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(
                f"{self.path}: no run here (no config.toml); name a folder that `adatt train` wrote"
            ) from error
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.config_file}: cannot be read ({error})") from error

    def vocabulary_file(self, table: str) -> Path:
        """The ids of a table in the order of their rows."""
        return self.vocabularies / f"{table}.parquet"

    def buckets_file(self, samples: int) -> Path:
        """Sums of an evaluation, bucket by bucket."""
        return self.path / "evaluations" / f"{samples}.parquet"

    def evaluations_on(self, fingerprint: str) -> Path:
        """The folder for the sums of evaluations on a test set; those of the run's own have no folder to themselves."""
        folder = self.path / "evaluations"
        own = self.manifests["test"]
        is_own = own.exists() and fingerprint == load_manifest(own).fingerprint
        return folder if is_own else folder / fingerprint[:12]

    def fusion_file(self, samples: int) -> Path:
        """Mean fusion weights of an evaluation."""
        return self.path / "fusion" / f"{samples}.json"

    def conflicts_file(self, samples: int) -> Path:
        """Cosines between the tasks' gradients before an evaluation."""
        return self.path / "conflicts" / f"{samples}.json"

    def calibration_file(self, samples: int) -> Path:
        """Calibration curves of an evaluation."""
        return self.path / "calibration" / f"{samples}.json"

    def trace_file(self, segment: int, rank: int) -> Path:
        """Where a rank of a start of the run records the rows that it hands out."""
        return self.trace / f"segment-{segment}.rank-{rank}.arrow"

    def forget_after(self, samples: int) -> None:
        """Drops what training has left behind after `samples`, where it is resumed."""
        for path in (self.train_log, self.evaluations):
            if path.exists():
                rewrite_records(path, [record for record in read_records(path) if record["samples"] <= samples])

        for folder in ("evaluations", "fusion", "conflicts", "calibration"):
            for path in (self.path / folder).glob("**/*.*"):
                if path.stem.isdecimal() and int(path.stem) > samples:
                    path.unlink()
