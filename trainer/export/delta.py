"""What has changed between two exports of a run: rows of tables, and all else as it is now.

    DELTA/delta.json                  what it changes, into what, and a digest of every other file
    DELTA/model.pt2                   without the values of tables
    DELTA/tables/<table>.safetensors  rows that changed: their numbers, and what they hold now
    DELTA/...                         the small files of the newer export

    the older export + DELTA ─► the newer export, to the byte

Shapes: R rows of a table, K of them changed, E its width.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.errors import ExpectedError
from data.settings import Settings
from data.storage.paths import path_of
from trainer.export.folder import (
    ExportManifest,
    Files,
    check_files,
    check_target,
    complete_at_once,
    entries_of,
    read_manifest,
    read_record,
    verify,
)
from trainer.export.program import with_tables, without_tables
from trainer.export.tables import BLOCK_ROWS, create_file, open_table, read_file, write_parquet

DELTA = "delta.json"
KINDS = {torch.float32: "float32", torch.float16: "float16", torch.uint8: "uint8"}


class DeltaManifest(Settings):
    """`delta.json`."""

    format: Literal[1] = 1
    base_samples: int
    """Of the checkpoint whose export it changes."""
    base_files: Files
    """The tables of that export."""
    becomes: ExportManifest
    """The manifest of the newer export."""
    changed_rows: dict[str, int]
    """By table."""
    files: Files


def write_delta(folder: Path, newer: Path, older: Path, older_samples: int) -> DeltaManifest:
    """Into `folder`, of the export `newer`; `older`: a folder with the tables of the older one."""
    becomes = read_manifest(newer)
    changed = {}
    (folder / "tables").mkdir()
    for path in sorted((newer / "tables").glob("*.safetensors")):
        changed[path.stem] = write_changes(folder / "tables" / path.name, path, older / "tables" / path.name)
    without_tables(newer / "model.pt2", folder / "model.pt2")
    for name in _small_files(becomes):
        shutil.copyfile(newer / name, folder / name)

    tables = {f"tables/{name}": entry for name, entry in entries_of(older / "tables").items()}
    base_files = {name: entry for name, entry in tables.items() if name.endswith(".safetensors")}
    delta = DeltaManifest(
        base_samples=older_samples,
        base_files=base_files,
        becomes=becomes,
        changed_rows=changed,
        files=entries_of(folder),
    )
    (folder / DELTA).write_text(delta.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return delta


def apply_delta(base: str, delta: str, out: str) -> ExportManifest:
    """Writes the newer export to `out`. Raises ExpectedError if `base` is not what the delta changes, or one of the
    three folders cannot be used.
    """
    target = check_target("--out", out)
    changes, older = path_of("--apply", delta), path_of("BASE", base)
    described = read_record(changes / DELTA, DeltaManifest, "adatt export --since")
    check_files(changes, described.files)
    _check_base(older, verify("BASE", base), described)

    with complete_at_once(target) as folder:
        (folder / "tables").mkdir()
        for name in described.becomes.files:
            if name.startswith("vocabularies/"):  # a run has one vocabulary for all of its checkpoints
                (folder / "vocabularies").mkdir(exist_ok=True)
                shutil.copyfile(older / name, folder / name)
        for name in _small_files(described.becomes):
            shutil.copyfile(changes / name, folder / name)
        tables = {}
        for path in sorted((changes / "tables").glob("*.safetensors")):
            newer = folder / "tables" / path.name
            shutil.copyfile(older / "tables" / path.name, newer)
            apply_changes(newer, path)
            tables[path.stem] = open_table(newer)
            parquet = newer.with_suffix(".parquet").name
            write_parquet(folder / "tables" / parquet, tables[path.stem], _ids(older / "tables" / parquet))
        with_tables(changes / "model.pt2", tables, folder / "model.pt2")
        described.becomes.write(folder)
        try:
            check_files(folder, described.becomes.files)
        except ExpectedError as error:
            versions = ", ".join(f"{name} {version}" for name, version in described.becomes.versions.items())
            raise ExpectedError(
                f"{changes}: makes other bytes here; apply it with the versions of {versions}"
            ) from error
    return described.becomes


def _check_base(folder: Path, base: ExportManifest, delta: DeltaManifest) -> None:
    becomes = delta.becomes
    found = (base.run, base.samples, base.tables)
    wanted = (becomes.run, delta.base_samples, becomes.tables)
    if found != wanted:
        raise ExpectedError(f"{folder}: is {_named(*found)}, but the delta changes {_named(*wanted)}; name that export")
    for name, entry in delta.base_files.items():
        if base.files.get(name) != entry:
            raise ExpectedError(f"{folder / name}: is not the table that the delta changes; name the export of its run")


def _named(run: str | None, samples: int, tables: str) -> str:
    return f"run {run} at {samples:,} samples with {tables} tables"


def _small_files(manifest: ExportManifest) -> list[str]:
    """The files of an export that a delta holds whole."""
    return [name for name in manifest.files if "/" not in name and name != "model.pt2"]


def write_changes(path: Path, newer: Path, older: Path) -> int:
    """Writes the rows in which a table's file differs from what it was; returns how many."""
    now, before = open_table(newer), open_table(older)
    changed_K = torch.cat(list(_changed(now.tensors, before.tensors)))
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {"rows": ("int64", (len(changed_K),))}
    for name, tensor in now.tensors.items():
        shapes[name] = (KINDS[tensor.dtype], (len(changed_K), *tensor.shape[1:]))
    target = create_file(path, shapes)
    target["rows"].copy_(changed_K)
    for start in range(0, len(changed_K), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        for name, tensor in now.tensors.items():
            target[name][block] = tensor[changed_K[block]]
    return len(changed_K)


def _changed(now: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Numbers of the rows whose bits differ."""
    for start in range(0, len(now["weight"]), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        num_rows = len(now["weight"][rows])
        unlike = torch.zeros(num_rows, dtype=torch.bool)
        for name in now:
            bits = [tensors[name][rows].view(torch.uint8).view(num_rows, -1) for tensors in (now, before)]
            unlike |= (bits[0] != bits[1]).any(dim=1)
        yield unlike.nonzero()[:, 0] + start


def apply_changes(path: Path, changes: Path) -> None:
    """Puts changed rows into a table's file."""
    target, changed = read_file(path), read_file(changes, writable=False)
    rows_K = changed.pop("rows")
    for name, values in changed.items():
        for start in range(0, len(rows_K), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            target[name][rows_K[block]] = values[block]


def _ids(parquet: Path) -> pa.Array | None:
    """The ids that a table's rows belong to, if the file has them."""
    if "id" not in pq.read_schema(parquet).names:
        return None
    return pq.read_table(parquet, columns=["id"])["id"].combine_chunks()
