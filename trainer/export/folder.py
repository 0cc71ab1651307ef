"""The folder of an export: complete at once, with a manifest that can be checked.

OUT/model.pt2                                the network, for torch alone
OUT/features.json, features.schema.json      how a raw row becomes its inputs
OUT/features.py, score.py                    the same as code that needs nothing of this program
OUT/vocabularies/<table>.npy                 ids of the tables that have a vocabulary
OUT/tables/<table>.safetensors, .parquet     the embedding tables
OUT/examples.jsonl                           rows, their inputs and predictions
OUT/manifest.json                            what it is, and a digest of every other file
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from data.errors import ExpectedError
from data.settings import Settings
from data.storage.paths import path_of
from trainer.errors import file_error
from trainer.run.starts import explain

MANIFEST = "manifest.json"
_CHUNK = 1 << 22


AnyRecord = TypeVar("AnyRecord", bound=Settings)


class FileEntry(Settings):
    """A file of the export."""

    bytes: int = Field(ge=0)
    sha256: str


def _stays_inside(name: str) -> str:
    """The name of a file; ValueError if it leads out of the folder. A manifest may come from anywhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("is no path inside the folder")
    return name


Files = dict[Annotated[str, AfterValidator(_stays_inside)], FileEntry]
"""Files by their paths in a folder."""


class ExportManifest(Settings):
    """`manifest.json`; without times or paths, so that the same model is exported to the same bytes."""

    format: Literal[1] = 1
    run: str | None
    """Id of the run."""
    samples: int
    """Trained, at the checkpoint."""
    config_digest: str
    """sha-256 of the resolved config as JSON."""
    fingerprints: dict[str, str]
    """Of the run's datasets."""
    versions: dict[str, str]
    """Of what wrote it."""
    tables: str
    """float32, float16 or int8."""
    table_bytes: dict[str, dict[str, int]]
    """By table, what it takes in each of these formats."""
    evaluations: dict[str, float]
    """NE or MSE of each task on the test set at this checkpoint, as far as it has been evaluated."""
    evaluations_as_served: dict[str, float]
    """The same with the tables as they are here; empty for float32."""
    rows_proven: int
    """Rows that were compared with `adatt predict`."""
    largest_difference: float
    """Of their predictions; beyond 1 relative to them."""
    files: Files

    def write(self, folder: Path) -> None:
        """Into the folder."""
        (folder / MANIFEST).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> ExportManifest:
    """Raises ExpectedError if the folder holds no manifest that can be read."""
    return read_record(folder / MANIFEST, ExportManifest, "adatt export")


def read_record(path: Path, kind: type[AnyRecord], command: str) -> AnyRecord:
    """A JSON file that `command` writes; raises ExpectedError if it is not there or cannot be read."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExpectedError(f"{path.parent}: no {path.name} is here; name a folder that `{command}` wrote") from error
    except ValueError as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise ExpectedError(f"{path}: is not as `{command}` writes it ({reason}); export anew") from error


def check_target(option: str, text: str) -> Path:
    """The folder to write, behind links; raises ExpectedError if something is there already."""
    path = path_of(option, text)
    if path.resolve() == Path.cwd():
        raise ExpectedError(f"{option} {path}: is the current folder, which cannot be written at once; name a new one")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ExpectedError(f"{option} {path}: is not empty; name a new folder, or remove it first")
    return path.resolve()


@contextmanager
def complete_at_once(target: Path) -> Iterator[Path]:
    """Context of a folder to write to, which takes the name `target` at the end; after an error nothing is left."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(target)
    except OSError as error:
        raise file_error(error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):  # it holds the export, or what others have written to it
                parent.rmdir()


def entries_of(folder: Path) -> dict[str, FileEntry]:
    """Every file but the manifest, by its path in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): entry_of(path) for path in paths}


def entry_of(path: Path) -> FileEntry:
    """Size and digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return FileEntry(bytes=path.stat().st_size, sha256=digest.hexdigest())


def verify(option: str, text: str) -> ExportManifest:
    """The manifest of an export whose files are all as they were written; raises ExpectedError that names the first
    that is not.
    """
    folder = path_of(option, text)
    manifest = read_manifest(folder)
    check_files(folder, manifest.files)
    return manifest


def check_files(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Raises ExpectedError that names the first file that is missing or another."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ExpectedError(f"{path}: is missing; export anew")
        if entry_of(path) != expected:
            raise ExpectedError(f"{path}: is not as it was exported; export anew")


def digest_of(value: Any) -> str:
    """sha-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
