"""`model.pt2`: the served network as torch.export writes it, the same bytes for the same weights.

torch's archive holds a serial number drawn for each save, and paths of the source: both are left out. What remains is a
zip file of entries as they are, sorted, with one fixed date.
"""

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from torch.export import Dim
from torch.fx.experimental import _config

from trainer.export.served import OF_TABLES, ServedModel
from trainer.export.tables import StoredTable

ROWS = 11
"""Of the inputs that are traced."""
COPY_BYTES = 1 << 22
SPARE_BYTES = 1 << 23
"""For the program's text in two archives."""
_DATE = (1980, 1, 1, 0, 0, 0)
_SERIAL = ".data/serialization_id"
_WEIGHTS = "model/data/weights/"


def write_program(path: Path, model: ServedModel) -> None:
    """Exports the model for any number of rows and ids, none included."""
    model.eval()
    check_room(path.parent, sum(tensor.nbytes for tensor in model.state_dict().values()))
    sparse = {}
    for number, feature in enumerate(model.features.sparse):
        num_ids = ROWS + 2 + number  # unlike sizes, or the exporter would take them for one
        sparse[feature.name] = {"ids": torch.zeros(num_ids, dtype=torch.int64), "offsets": torch.arange(ROWS)}
        if feature.weights is not None:
            sparse[feature.name]["weights"] = torch.ones(num_ids)
    dense = torch.zeros(ROWS, model.features.dense_width)
    shapes = ({name: {key: {0: Dim.DYNAMIC} for key in given} for name, given in sparse.items()}, {0: Dim.DYNAMIC})

    # Without the patch a program for two rows and more would be another than that for none or one.
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(model, (sparse, dense), dynamic_shapes=shapes, strict=False)
    # Some products look at whether there is one row alone, whose strides are others; what they compute is the same.
    program._guards_code = []
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)

    saved = path.with_name("saved.pt2")
    try:
        torch.export.save(program, saved)
        with zipfile.ZipFile(saved) as source:
            prefix = source.namelist()[0].partition("/")[0]
            names = {f"model/{name.removeprefix(prefix + '/')}": name for name in source.namelist()}
            with zipfile.ZipFile(path, "w") as target:
                for name in sorted(names):
                    if not name.endswith(_SERIAL):
                        _copy(source, names[name], target, name)
    finally:
        saved.unlink(missing_ok=True)


def check_room(folder: Path, num_bytes: int) -> None:
    """Raises OSError where the disk has no room for the weights: torch's writer would end the process."""
    if shutil.disk_usage(folder).free < 2 * num_bytes + SPARE_BYTES:  # as torch writes it, and its copy
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def without_tables(source: Path, target: Path) -> None:
    """The same archive without the values of tables."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w") as reduced:
        of_tables = _entries_of_tables(whole)
        for name in whole.namelist():
            if name not in of_tables:
                _copy(whole, name, reduced, name)


def with_tables(source: Path, tables: Mapping[str, StoredTable], target: Path) -> None:
    """An archive that `without_tables` has made, with the values of these tables, by their names."""
    with zipfile.ZipFile(source) as reduced, zipfile.ZipFile(target, "w") as whole:
        of_tables = _entries_of_tables(reduced)
        for name in sorted([*reduced.namelist(), *of_tables]):
            if name in of_tables:
                table, key = of_tables[name]
                bytes_N = tables[table].tensors[key].view(-1).view(torch.uint8).numpy()
                with _entry(whole, name, len(bytes_N)) as target_entry:
                    for start in range(0, len(bytes_N), COPY_BYTES):
                        target_entry.write(bytes_N[start : start + COPY_BYTES].tobytes())
            else:
                _copy(reduced, name, whole, name)


def _entries_of_tables(archive: zipfile.ZipFile) -> dict[str, tuple[str, str]]:
    """(table, tensor of it) by the entry that holds it."""
    config = json.loads(archive.read(_WEIGHTS + "model_weights_config.json"))["config"]
    found = {}
    for name, entry in config.items():
        table, _, key = name.removeprefix(OF_TABLES).rpartition(".")
        if name.startswith(OF_TABLES):
            found[_WEIGHTS + entry["path_name"]] = (table, key.partition("_")[0])
    return found


def _copy(source: zipfile.ZipFile, name: str, target: zipfile.ZipFile, new_name: str) -> None:
    with source.open(name) as content, _entry(target, new_name, source.getinfo(name).file_size) as entry:
        shutil.copyfileobj(content, entry, COPY_BYTES)


def _entry(archive: zipfile.ZipFile, name: str, size: int) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(name, _DATE), "w", force_zip64=size >= 1 << 31)
