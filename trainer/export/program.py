"""`model.pt2`: the served network as torch.export writes it, the same bytes for the same weights.

torch's archive holds a serial number drawn for each save, and paths of the source: both are left out. What remains is a
zip file of entries as they are, sorted, with one fixed date.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import torch
from torch.export import Dim
from torch.fx.experimental import _config

from trainer.export.served import ServedModel

ROWS = 11
"""Of the inputs that are traced."""
COPY_BYTES = 1 << 22
_DATE = (1980, 1, 1, 0, 0, 0)
_SERIAL = ".data/serialization_id"


def write_program(path: Path, model: ServedModel) -> None:
    """Exports the model for any number of rows and ids, none included."""
    model.eval()
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
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)

    saved = path.with_name("saved.pt2")
    try:
        torch.export.save(program, saved)
        with zipfile.ZipFile(saved) as source:
            prefix = source.namelist()[0].partition("/")[0]
            names = {f"model/{name.removeprefix(prefix + '/')}": name for name in source.namelist()}
            with entries_to(path) as target:
                for name in sorted(names):
                    if not name.endswith(_SERIAL):
                        with source.open(names[name]) as entry:
                            target.add(name, entry, source.getinfo(names[name]).file_size)
    finally:
        saved.unlink(missing_ok=True)


class Entries:
    """A zip file to which entries are added, as they are."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def add(self, name: str, content: Any, size: int) -> None:
        """`content`: a file; `size`: its bytes."""
        info = zipfile.ZipInfo(name, _DATE)
        with self._archive.open(info, "w", force_zip64=size >= 1 << 31) as entry:
            copyfileobj(content, entry, COPY_BYTES)


@contextmanager
def entries_to(path: Path) -> Iterator[Entries]:
    """Context of a new archive at `path`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        yield Entries(archive)
