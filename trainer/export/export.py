"""`adatt export`: a checkpoint of a run becomes a folder that serves it, proven equal to `adatt predict`.

    checkpoint ─► one table after the other ─► tables/, memory-mapped ─┐
               └► head ────────────────────────────────────────────────┴► model.pt2
    config, kinds of the training data's columns ─► features.json
    rows of the test set ─► the run's model, and the folder in a process apart ─► equal? ─► examples, manifest

Everything is written to a folder beside the target, which takes its name at the end.
"""

import importlib.metadata
import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import torch

from data.discovery.source import Source
from data.errors import ExpectedError
from data.manifest import Manifest
from data.storage.manifest_file import load_manifest
from models.ranker import Ranker
from models.tables import weight_name
from trainer.build_model import ShardedModel, build_model
from trainer.checkpoint.safe_load import SafePlanner
from trainer.checkpoint.state import State
from trainer.checkpoint.trained_run import TrainedRun, open_trained_run
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.export import proof
from trainer.export.delta import DeltaManifest, write_delta
from trainer.export.folder import ExportManifest, check_target, complete_at_once, digest_of, entries_of
from trainer.export.program import write_program
from trainer.export.quantised import check_change, evaluate, replace_tables
from trainer.export.recipe import Recipe, build_recipe, write_vocabularies
from trainer.export.rows import draw_rows
from trainer.export.served import ServedModel
from trainer.export.standalone import sources
from trainer.export.tables import (
    StoredTable,
    TableFormat,
    bytes_by_format,
    create_file,
    ids_of_rows,
    open_table,
    write_parquet,
    write_table,
)
from trainer.prediction.predict import without_labels
from trainer.run.records import read_evaluations

PACKAGES = ("torch", "torchrec", "numpy", "pyarrow")


@dataclass(frozen=True)
class Request:
    """What is to be exported, and how."""

    run: str
    checkpoint: str
    tables: TableFormat
    data: Source | None
    """Rows for the proof; None: the config's test set, else its training data."""
    rows: int
    """So many of them."""
    max_ne_change: float
    """In per cent."""


@dataclass(frozen=True)
class Opened:
    """What is exported, found and checked before anything is written."""

    request: Request
    trained: TrainedRun
    state: State
    rows: Manifest
    """The dataset of the proof."""


def export_run(request: Request, out: str, world: World) -> ExportManifest:
    """Writes the folder `out`. Raises an ExpectedError for what is wrong, RunError if it does not equal `predict`."""
    target = check_target("--out", out)
    opened = _open(request, world)
    with complete_at_once(target) as folder:
        return _write(folder, opened)


def export_delta(request: Request, since: str, out: str, world: World) -> DeltaManifest:
    """Writes to `out` what turns the export of checkpoint `since` into this one; errors as of `export_run`."""
    target = check_target("--out", out)
    opened = _open(request, world)
    older = opened.trained.find_checkpoint(since, "--since")
    with complete_at_once(target) as folder, TemporaryDirectory(dir=folder.parent) as scratch:
        newer_folder, older_folder = Path(scratch) / "newer", Path(scratch) / "older"
        newer_folder.mkdir()
        older_folder.mkdir()
        _write(newer_folder, opened)
        _write_tables(older_folder, opened.trained, older, request.tables)
        return write_delta(folder, newer_folder, older_folder, older.samples)


def _open(request: Request, world: World) -> Opened:
    if world.size > 1:
        raise ExpectedError(f"adatt export runs in one process, not in {world.size}; start it without torchrun")
    trained = _in_float32(open_trained_run(request.run, world))
    config = trained.config
    source = request.data or config.data.test_source
    if request.tables != "float32" and source is None:
        raise ExpectedError(
            f"--tables {request.tables}: what it costs is measured on a test set, and the config names none; name a "
            "dataset with --data"
        )
    if request.tables == "float32":
        config = without_labels(config)
    rows = trained.open_dataset(source or config.data.train_source, config)
    return Opened(request, trained, trained.find_checkpoint(request.checkpoint), rows)


def _write(folder: Path, opened: Opened) -> ExportManifest:
    """The whole export."""
    trained, state, kind = opened.trained, opened.state, opened.request.tables
    config = trained.config
    tables = write_model(folder, trained, state, kind)
    for name, table in tables.items():
        vocabulary = trained.vocabularies.get(name)
        ids = None if vocabulary is None else ids_of_rows(vocabulary, len(table.weight_RE))
        write_parquet(folder / "tables" / f"{name}.parquet", table, ids)

    if kind == "int8":
        trained = _with_float32_tables(trained)
    sharded = trained.load(state)
    evaluations = _evaluations(trained, state)
    as_served: dict[str, float] = {}
    if kind != "float32":
        evaluations = evaluate(trained, sharded, opened.rows, state.samples)
        replace_tables(sharded, tables)
        as_served = evaluate(trained, sharded, opened.rows, state.samples)
        check_change(evaluations, as_served, kind, opened.request.max_ne_change)

    rows = draw_rows(opened.rows, config.features.columns, opened.request.rows)
    difference = _prove(folder, trained, sharded, rows)
    exported = ExportManifest(
        run=state.run,
        samples=state.samples,
        config_digest=digest_of(state.config),
        fingerprints=state.fingerprints,
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        tables=kind,
        table_bytes={table.name: bytes_by_format(table.rows, table.dim) for table in config.tables_held},
        evaluations=evaluations,
        evaluations_as_served=as_served,
        rows_proven=sum(table.num_rows for table in rows),
        largest_difference=difference,
        files=entries_of(folder),
    )
    exported.write(folder)
    return exported


def write_model(folder: Path, trained: TrainedRun, state: State, kind: TableFormat) -> dict[str, StoredTable]:
    """What answers: the network, its tables, and the recipe of its inputs. The tables."""
    config = trained.config
    tables = _write_tables(folder, trained, state, kind)
    _write_recipe(folder, trained)
    write_program(folder / "model.pt2", ServedModel(_read_head(trained, state), tables, config.features, config.tasks))
    return tables


def _in_float32(trained: TrainedRun) -> TrainedRun:
    """The same run with products in float32, as the export computes them, whatever it was trained in."""
    train = trained.config.train.model_copy(update={"precision": "float32"})
    return replace(trained, config=trained.config.model_copy(update={"train": train}))


def _with_float32_tables(trained: TrainedRun) -> TrainedRun:
    """The same run with tables that hold what float16 would round."""
    tables = tuple(table.model_copy(update={"dtype": "float32"}) for table in trained.config.tables)
    return replace(trained, config=trained.config.model_copy(update={"tables": tables}))


def _write_tables(folder: Path, trained: TrainedRun, state: State, kind: TableFormat) -> dict[str, StoredTable]:
    """Each table of a checkpoint in tables/, mapped into memory."""
    (folder / "tables").mkdir()
    tables = {}
    for table in trained.config.tables_held:
        path = folder / "tables" / f"{table.name}.safetensors"
        as_trained = folder / "tables" / "as_trained"
        shape = (table.rows, table.dim)
        values = create_file(as_trained, {"weight": (table.dtype, shape)})["weight"]
        name = weight_name(table.name)
        trained.checkpoints.read(state, {"model": {name: values}}, SafePlanner())
        if kind == table.dtype:
            as_trained.rename(path)
        else:
            write_table(path, values, kind)
            as_trained.unlink()
        tables[table.name] = open_table(path)
    return tables


def _write_recipe(folder: Path, trained: TrainedRun) -> None:
    """Everything that says how raw rows become the model's inputs."""
    recipe = build_recipe(trained.config, load_manifest(trained.run.manifests["train"]))
    texts = sources() | {
        "features.json": recipe.model_dump_json(indent=1) + "\n",
        "features.schema.json": json.dumps(Recipe.model_json_schema(), indent=1) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_vocabularies(folder, trained.vocabularies)


def _read_head(trained: TrainedRun, state: State) -> Ranker:
    """The model with the checkpoint's weights, but for its tables, which take no memory."""
    ranker = build_model(trained.config, torch.device("meta"))
    of_tables = "features.embeddings."
    weights = {name: value for name, value in ranker.state_dict().items() if not name.startswith(of_tables)}
    trained.checkpoints.read(state, {"model": weights}, SafePlanner())
    return ranker


def _evaluations(trained: TrainedRun, state: State) -> dict[str, float]:
    """NE or MSE by task that the run has found on its test set at this checkpoint."""
    records = read_evaluations(trained.run.evaluations)
    return {
        record.task: record.main
        for record in records
        if record.samples == state.samples and record.by is None and record.main is not None
    }


def _prove(folder: Path, trained: TrainedRun, sharded: ShardedModel, rows: list[pa.Table]) -> float:
    """Writes the examples; the largest difference between the export and the run's model. RunError if it is too
    large.
    """
    predicted_RT = proof.predict(trained, sharded, rows)
    served_RT = proof.scored_apart(folder, rows, trained.config.tasks)
    difference = proof.largest_difference(served_RT, predicted_RT)
    if not difference <= proof.TOLERANCE:
        raise RunError(
            f"the export differs from `adatt predict` by {difference:.1e} on {len(served_RT):,} rows, more than "
            f"{proof.TOLERANCE:.0e}; it was not written"
        )
    proof.write_examples(folder / "examples.jsonl", trained, rows, served_RT)
    return difference
