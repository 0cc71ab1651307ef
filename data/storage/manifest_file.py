"""A manifest in a file: Parquet with metadata, checked by a digest of all that it holds; nothing is unpickled.

row groups (file, group, rows, bytes)   the table
listing, texts, schema, digest          its metadata; `texts` is JSON
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.discovery.source import Source
from data.errors import DataError, one_line
from data.manifest import Manifest, OnBadFile, digest_of
from data.storage.files import replaced
from data.storage.parsing import parse_json

FORMAT = 3
"""Of the files. The digest of format 2 did not cover the arrays; runs hold such files."""
_ARRAYS = ("file", "group", "rows", "bytes")
_TEXTS = ("root", "fingerprint", "files", "digests", "left_out", "num_unread", "unread", "layouts", "history")
_NOT_OURS = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)
"""What reading such a file raises if it is damaged or something else."""


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Writes the manifest to a local file, which appears complete or not at all; raises OSError if it cannot."""
    _write(manifest, path, listing="")


def load_manifest(path: Path) -> Manifest:
    """What `save_manifest` wrote, without a look at the dataset; raises DataError if it is missing or damaged."""
    try:
        return _from_table(_read_table(path))
    except _NOT_OURS as error:
        raise DataError(f"{path}: not a saved manifest ({one_line(error)}); restore it from a copy") from error


def save_cached(manifest: Manifest, path: Path, listing: str) -> None:
    """Keeps the manifest for the next start, under the digest of the dataset's listing."""
    # Best effort: a home that is read-only only costs the next start some time.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(manifest, path, listing)


def load_cached(path: Path | None, listing: str, on_bad_file: OnBadFile) -> Manifest | None:
    """The cached manifest, or None if there is none for exactly this listing; a damaged cache counts as none.

    One that leaves out files serves only those who want them left out.
    """
    if path is None or not path.is_file():
        return None

    try:
        table = _read_table(path)
        if table.schema.metadata[b"listing"] != listing.encode():
            return None
        manifest = _from_table(table)
    except _NOT_OURS:
        return None

    return None if manifest.left_out and on_bad_file == "fail" else manifest


def _write(manifest: Manifest, path: Path, listing: str) -> None:
    """Raises OSError if it cannot be written; nothing is left of it then."""
    texts: dict[str, Any] = {name: getattr(manifest, name) for name in _TEXTS}
    texts["uris"], texts["where"] = manifest.source.uris, manifest.source.where
    texts["other_schemas"] = [(name, _to_bytes(schema).hex()) for name, schema in manifest.other_schemas]
    encoded = json.dumps(texts).encode()
    schema = _to_bytes(manifest.schema)

    table = pa.table({name: getattr(manifest, name) for name in _ARRAYS})
    digest = _digest(table, listing.encode(), encoded, schema)
    metadata = {"listing": listing, "texts": encoded, "schema": schema, "digest": digest}

    with replaced(path, by_many=True) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, write_page_checksum=True)


def _read_table(path: Path) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        return parquet.read()


def _from_table(table: pa.Table) -> Manifest:
    """The manifest that `_write` wrote; raises one of `_NOT_OURS` if it is something else."""
    metadata = table.schema.metadata
    listing = metadata[b"listing"]
    encoded = metadata[b"texts"]
    schema = metadata[b"schema"]
    digests = (_digest(table, listing, encoded, schema), digest_of([2, encoded, schema]))
    if metadata[b"digest"].decode() not in digests:
        raise ValueError("damaged, or written by another version")

    texts = parse_json(encoded)
    others = [(name, bytes.fromhex(text)) for name, text in texts.get("other_schemas", [])]
    return Manifest(
        **{name: table[name].to_numpy() for name in _ARRAYS},
        source=Source(tuple(texts["uris"] if "uris" in texts else [texts["uri"]]), texts.get("where")),
        root=texts["root"],
        fingerprint=texts["fingerprint"],
        files=tuple(texts["files"]),
        digests=tuple(texts["digests"]),
        left_out=tuple((name, reason) for name, reason in texts["left_out"]),
        num_unread=texts.get("num_unread", 0),
        unread=tuple(texts.get("unread", ())),
        layouts=tuple(texts.get("layouts", ())),
        history=tuple(texts.get("history", ())),
        schema=_from_bytes(schema),
        other_schemas=tuple((name, _from_bytes(other)) for name, other in others),
    )


def _digest(table: pa.Table, *texts: bytes) -> str:
    """Of everything that a manifest's file holds."""
    arrays = [table[name].to_numpy().astype("<i8").tobytes() for name in _ARRAYS]
    digests = [hashlib.sha256(array).hexdigest() for array in arrays]
    return digest_of([FORMAT, *texts, *digests])


def _to_bytes(schema: pa.Schema) -> bytes:
    return schema.serialize().to_pybytes()


def _from_bytes(data: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(data))
