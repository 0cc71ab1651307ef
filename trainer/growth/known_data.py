"""The training data as a run knows it, beside the data as it is now: what may have changed between two starts."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple

from data.discovery.growth import grown
from data.discovery.listing import first_names
from data.discovery.repair import repaired
from data.errors import DataError
from data.manifest import Manifest, as_before, file_change, file_states, way_out
from data.storage.manifest_file import load_manifest
from trainer.checkpoint.places import checkpoint_folder
from trainer.config.run_config import Config
from trainer.run.directory import RunDirectory


class KnownData(NamedTuple):
    """What a start trains on."""

    manifest: Manifest
    accepted: list[str]
    """Files whose new contents are accepted."""
    growth: str | None = None
    """What has come since the start before, in a line."""


def may_grow(config: Config) -> bool:
    """Whether new windows may follow behind those that a run knows."""
    return config.data.order == "chronological" and not config.data.repeat


def known_data(config: Config, run: RunDirectory, now: Manifest) -> KnownData:
    """The training data of the run, numbered as at its starts before; `now` at the first one.

    Raises DataError if it has changed in a way that it may not. Call it on rank 0.
    """
    recorded = run.manifests["train"]
    if not recorded.exists():
        run.check_recorded("train", checkpoint_folder(run, config).names())
        return KnownData(now, [])

    known = load_manifest(recorded)
    accepted: list[str] = []
    if config.run.accept_changed_data:
        known, accepted = repaired(known, now)
    unreadable: set[str] = set()
    if config.data.on_bad_file == "skip":
        # Files may have become unreadable since the first start, or readable: the run keeps those of its first start.
        unreadable = {name for name, _ in (*known.left_out, *now.left_out)}
        now = as_before(known, now)

    if may_grow(config):
        saved = checkpoint_folder(run, config).names()
        manifest = grown(known, now, int(saved[-1]) if saved else 0, config.data.lanes)
        return KnownData(manifest, accepted, _growth(known, manifest))

    _check_unchanged(known, now, unreadable, run)
    is_now = known.fingerprint == now.fingerprint
    return KnownData(replace(now, history=known.history) if is_now else known, accepted)


def _growth(known: Manifest, manifest: Manifest) -> str | None:
    rows = manifest.num_rows - known.num_rows
    if rows == 0:
        return None
    names = list(dict.fromkeys(manifest.window_names[len(known.files) :]))
    return f"data.train has grown by {rows:,} rows in {first_names(names, kind='window')}"


def _check_unchanged(known: Manifest, now: Manifest, unreadable: set[str], run: RunDirectory) -> None:
    """Raises DataError with the first file that differs, among those that can be read."""
    old, new = file_states(known), file_states(now)
    readable = sorted({*old, *new} - unreadable)
    name = next((name for name in readable if old.get(name) != new.get(name)), None)
    if name is None:
        return

    before, after = old.get(name), new.get(name)
    change = file_change(name or PurePosixPath(now.root).name, before, after)
    advice = way_out(before, after)
    began = f"the run in {str(run.path)!r} began"
    raise DataError(f"data.train = {now.uri!r} has changed since {began}: {change}{advice}")
