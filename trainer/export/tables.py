"""Embedding tables of an export, one after the other: never more than a block of rows in memory.

    checkpoint ─► memory-mapped float32 ─► tables/<name>.safetensors   what the model reads
                                       └─► tables/<name>.parquet       row, vector in float32, and the id if it is known

    float32   weight [rows, dim]
    float16   weight [rows, dim], each to the nearest
    int8      weight [rows, dim] of 0 … 255, with scale and offset for each row: value = weight · scale + offset

Shapes: R rows of a table, E its width.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.columns.vocabulary import Vocabulary

TableFormat = Literal["float32", "float16", "int8"]
TABLE_FORMATS: tuple[TableFormat, ...] = get_args(TableFormat)
BLOCK_ROWS = 1 << 16
"""Rows that are converted, or written to Parquet, at once."""
_DTYPES = {"float32": "F32", "float16": "F16", "uint8": "U8", "int64": "I64"}
_STEPS = 255


class StoredTable(NamedTuple):
    """A table as it is served; tensors may be mapped from a file."""

    weight_RE: torch.Tensor
    """float32, float16, or uint8 with the two others."""
    scale_R: torch.Tensor | None = None
    offset_R: torch.Tensor | None = None

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """By their names in the file, the wider type first, so that each begins at a multiple of its size."""
        named = {"scale": self.scale_R, "offset": self.offset_R, "weight": self.weight_RE}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def floats(self, rows: slice) -> torch.Tensor:
        """Some rows in float32."""
        weight_RE = self.weight_RE[rows].float()
        if self.scale_R is None or self.offset_R is None:
            return weight_RE
        return weight_RE * self.scale_R[rows, None] + self.offset_R[rows, None]


def create_file(path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, torch.Tensor]:
    """A new safetensors file; its tensors, mapped into memory, to be written to. `shapes`: (type, shape) by name."""
    header: dict[str, object] = {}
    end = 0
    for name, (kind, shape) in shapes.items():
        begin, end = end, end + np.dtype(kind).itemsize * int(np.prod(shape))
        header[name] = {"dtype": _DTYPES[kind], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()
        # Blocks of the disk, not a hole: where there are none, writing to mapped memory would kill the process.
        os.posix_fallocate(file.fileno(), 0, 8 + len(text) + end)
    return read_file(path)


def read_file(path: Path, *, writable: bool = True) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, mapped into memory. `writable`: what is written to them is in the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    tensors = {}
    for name, entry in header.items():
        kind = next(kind for kind, code in _DTYPES.items() if code == entry["dtype"])
        start = 8 + length + entry["data_offsets"][0]
        mode: Literal["r+", "c"] = "r+" if writable else "c"
        tensors[name] = torch.from_numpy(np.memmap(path, np.dtype(kind), mode, start, tuple(entry["shape"])))
    return tensors


def open_table(path: Path) -> StoredTable:
    """A table's file, mapped into memory; what is written to the tensors stays in memory."""
    tensors = read_file(path, writable=False)
    return StoredTable(tensors["weight"], tensors.get("scale"), tensors.get("offset"))


def write_table(path: Path, values_RE: torch.Tensor, kind: TableFormat) -> None:
    """A table in a format; `values_RE`: float32 or float16."""
    rows, dim = values_RE.shape
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {"weight": (kind, (rows, dim))}
    if kind == "int8":
        shapes = {"scale": ("float32", (rows,)), "offset": ("float32", (rows,)), "weight": ("uint8", (rows, dim))}
    target = create_file(path, shapes)
    for start in range(0, rows, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        if kind == "int8":
            target["weight"][block], target["scale"][block], target["offset"][block] = quantised(values_RE[block])
        else:
            target["weight"][block] = values_RE[block]


def quantised(values_RE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(weight_RE in 0 … 255, scale_R, offset_R), by each row's smallest and largest value."""
    values_RE = values_RE.float()
    lowest_R, highest_R = values_RE.aminmax(dim=1)
    scale_R = (highest_R - lowest_R) / _STEPS
    steps_RE = (values_RE - lowest_R[:, None]) / torch.where(scale_R == 0, 1, scale_R)[:, None]
    return steps_RE.round().clamp(0, _STEPS).to(torch.uint8), scale_R, lowest_R


def write_parquet(path: Path, table: StoredTable, ids: pa.Array | None) -> None:
    """Each row's number and vector, and the id that it belongs to, where that is known for each row."""
    rows, dim = table.weight_RE.shape
    fields = [("row", pa.int64()), ("vector", pa.list_(pa.float32(), dim))]
    if ids is not None:
        fields.insert(1, ("id", ids.type))
    schema = pa.schema(fields)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, rows, BLOCK_ROWS):
            values_RE = table.floats(slice(start, start + BLOCK_ROWS)).numpy()
            numbers = pa.array(np.arange(start, start + len(values_RE)))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(values_RE.reshape(-1)), dim)
            columns = [numbers, vectors] if ids is None else [numbers, ids.slice(start, len(values_RE)), vectors]
            writer.write_table(pa.table(columns, schema=schema))


def ids_of_rows(vocabulary: Vocabulary, rows: int) -> pa.Array:
    """The id of each row of a table, null for rows of unknown ids and for those that are left over."""
    kind = vocabulary.values.type
    left_over = rows - vocabulary.unknown_rows - len(vocabulary)
    return pa.concat_arrays([pa.nulls(vocabulary.unknown_rows, kind), vocabulary.values, pa.nulls(left_over, kind)])


def bytes_by_format(rows: int, dim: int) -> dict[str, int]:
    """What a table takes in each format."""
    return {"float32": 4 * rows * dim, "float16": 2 * rows * dim, "int8": rows * (dim + 8)}
