"""Which run something belongs to.

A run gets a random id at its first start, in RUN/identity. Every checkpoint, start, evaluation and trace holds it too:
what was copied from another run is noticed, even if nothing else differs. Records without an id are of before there
were ids; they pass if the config and the data are the run's.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.storage.files import replace_text
from data.storage.manifest_file import load_manifest
from trainer.config.compatibility import plain
from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.run.directory import RunDirectory
from trainer.run.starts import RunStart

_ID_BYTES = 16


@dataclass(frozen=True)
class Origin:
    """What everything of a run has in common."""

    identity: str | None
    """None: of before there were ids, or a first start."""
    config: dict[str, Any]
    fingerprints: dict[str, tuple[str, ...]]
    """Of the datasets, as far as the run's folder tells them; also those that one had before it grew."""

    def check_starts(self, path: Path, segments: Iterable[RunStart]) -> None:
        """Raises ConfigError if the records of starts at `path` are of another run."""
        for segment in segments:
            found = self.other_identity(segment.run) or self.other_data("train", segment.fingerprint)
            if found:
                raise ConfigError(
                    f"{path}: line {segment.segment + 1} is of a start of another run ({found}); restore the file from "
                    "a copy"
                )

    def is_own(self, identity: str | None) -> bool:
        """Whether something with this id may belong to the run."""
        return identity is None or identity == self.identity

    def other_data(self, use: str, fingerprint: str) -> str | None:
        """How a dataset differs from the run's, for a message; None if it is the same."""
        here = self.fingerprints.get(use)
        if here is None or fingerprint in here:
            return None
        return f"data.{use} has fingerprint {fingerprint!r} there, {here[0]!r} here"

    def other_identity(self, identity: str | None) -> str | None:
        """How an id differs from the run's, for a message; None if it may be the same."""
        if self.is_own(identity):
            return None
        return f"its id is {identity!r}, {f'not {self.identity!r}' if self.identity else 'but RUN/identity is missing'}"


def origin_of(run: RunDirectory, config: Config) -> Origin:
    """What the folder of a run says of itself; raises ExpectedError if that is damaged."""
    fingerprints: dict[str, tuple[str, ...]] = {}
    for use, path in run.manifests.items():
        if path.exists():
            fingerprints[use] = load_manifest(path).fingerprints
    return Origin(read_identity(run), plain(config), fingerprints)


def with_identity(run: RunDirectory, origin: Origin) -> str:
    """The run's id, which is made and kept in its folder where there is none yet."""
    if origin.identity is not None:
        return origin.identity
    identity = secrets.token_hex(_ID_BYTES)
    replace_text(run.identity, identity + "\n")
    return identity


def read_identity(run: RunDirectory) -> str | None:
    """The id in a run's folder; None if there is none. Raises ConfigError if it is damaged."""
    try:
        text = run.identity.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{run.identity}: cannot be read ({error}); restore it from a copy") from error

    if not text:
        raise ConfigError(f"{run.identity}: is empty; restore it from a copy")

    return text
