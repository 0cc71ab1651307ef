"""A first look at a dataset, as a table and a list of findings."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from data.discovery.source import Source
from data.manifest import Manifest
from data.profile.dataset import DatasetProfile, Wanted, profile_dataset
from data.profile.summary import summarise
from trainer.config.run_config import Config
from trainer.console import count_progress
from trainer.datasets import build_columns, open_manifest
from trainer.distributed.world import World
from trainer.logging.profile_table import profile_table
from trainer.proposal import findings
from trainer.run.shared_storage import own_copy

SHOWN_VALUES = 3
"""Of a partition's key, from either end."""


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    manifest: Manifest
    profile: DatasetProfile
    findings: tuple[str, ...]


def profiled(
    source: Source, names: list[str] | None = None, *, contents: bool = False
) -> tuple[Manifest, DatasetProfile]:
    """One pass over a dataset, with a progress bar; of these columns, or all."""
    manifest = open_manifest(source)
    with count_progress("reading rows", manifest.num_rows) as progress:
        return manifest, profile_dataset(manifest, names, wanted=Wanted(contents=contents), progress=progress)


def profiled_by_all(source: Source, names: list[str] | None, world: World) -> tuple[Manifest, DatasetProfile]:
    """The same, each rank looking at its share; whole on rank 0 only. Collective: call on all ranks."""
    manifest = own_copy(world.on_rank_zero(lambda: open_manifest(source)), source, world, "fail")
    share = (world.rank, world.size)

    def look() -> DatasetProfile:
        with count_progress("reading rows", manifest.num_rows, world.is_rank_zero) as bar:
            return profile_dataset(manifest, names, share=share, progress=lambda rows: bar(rows * world.size))

    return manifest, world.joined(world.raise_on_all_ranks(look), DatasetProfile.join)


def inspect_dataset(source: Source, test: Source | None, config: Config | None, labels: list[str] | None) -> Inspection:
    """Reads a dataset once, and the test data if it is given."""
    manifest, profile = profiled(source, contents=True)
    test_profile = None if test is None else profiled(test, contents=True)[1]
    labels = labels or []
    found = [*findings.of_files(manifest), *findings.of_columns(profile)]
    if config is not None:
        labels = labels or [task.label for task in config.tasks]
        found += findings.of_ids(profile, build_columns(config))
    found += findings.of_labels(profile, labels)
    found += findings.of_rows(profile, test_profile)
    return Inspection(manifest, profile, tuple(found))


def inspection(found: Inspection) -> Iterator[Table | str]:
    """What is printed: partitions, columns, row groups, findings."""
    manifest = found.manifest
    for key, values in manifest.keys.items():
        different = sorted(set(values.to_pylist()) - {None})
        shown = [*different[:SHOWN_VALUES], *different[SHOWN_VALUES:][-SHOWN_VALUES:]]
        yield f"partitions by {key}: {len(different):,} values, {', '.join(map(str, shown))}"
    yield profile_table(manifest, summarise(found.profile, manifest))
    rows = manifest.rows[manifest.rows > 0]
    megabytes = manifest.bytes.sum() / 10**6
    yield f"row groups: {len(rows):,} of {rows.min():,} to {rows.max():,} rows; {megabytes:,.0f} MB uncompressed"
    yield from (f"- {line}" for line in found.findings)
    if not found.findings:
        yield "nothing odd was found"
