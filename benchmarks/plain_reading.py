"""Reading as a user would write it with pyarrow and torch: row group after row group, permuted, cut into batches."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from torch.utils.data import IterableDataset, get_worker_info
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.features import DenseFeature
from data.hashing import Int64, fold
from data.reading import Reading

PlainBatch = tuple[KeyedJaggedTensor, torch.Tensor, torch.Tensor, torch.Tensor]


def raw_row_groups(reading: Reading) -> Iterator[pa.Table]:
    """What bounds all reading: Arrow decodes the columns, file after file, on this thread, pass after pass."""
    while True:
        for group in range(len(reading.manifest.rows)):
            if reading.manifest.group[group] == 0:
                parquet = pq.ParquetFile(reading.manifest.path(group), pre_buffer=True)
            index = int(reading.manifest.group[group])
            yield parquet.read_row_group(index, columns=reading.columns.names, use_threads=False)


def plain_batches(reading: Reading, groups: Iterable[int]) -> Iterator[PlainBatch]:
    """Batches of the given row groups; rows that do not fill one are left out."""
    random = np.random.default_rng(17)
    for group in groups:
        parquet = pq.ParquetFile(reading.manifest.path(group))
        index = int(reading.manifest.group[group])
        table = parquet.read_row_group(index, columns=reading.columns.names, use_threads=False)
        table = table.take(random.permutation(table.num_rows)).combine_chunks()
        yield from _cut(reading, table)


def _cut(reading: Reading, table: pa.Table) -> Iterator[PlainBatch]:
    features = reading.columns.features
    jagged = [
        _ids(table[entry.column], reading.columns.table_rows[entry.table], entry.hash) for entry in features.sparse
    ]
    dense = [_scaled(table[entry.column], entry) for entry in features.dense]
    labels = [_numbers(table[entry.column]) for entry in reading.columns.labels]
    dense_RD = torch.stack(dense, dim=1) if dense else torch.zeros(table.num_rows, 0)
    labels_RT = torch.stack(labels, dim=1)
    mask_RT = ~labels_RT.isnan()
    labels_RT = labels_RT.nan_to_num(0)
    keys = [entry.name for entry in features.sparse]
    size = reading.global_batch_size

    for start in range(0, table.num_rows - size + 1, size):
        rows = slice(start, start + size)
        values = [ids[offsets[start] : offsets[start + size]] for ids, offsets in jagged]
        lengths = [np.diff(offsets[start : start + size + 1]) for _, offsets in jagged]
        sparse = KeyedJaggedTensor(
            keys,
            torch.from_numpy(np.concatenate(values)),
            lengths=torch.from_numpy(np.concatenate(lengths).astype(np.int32)),
        )
        yield sparse, dense_RD[rows], labels_RT[rows], mask_RT[rows]


def _ids(column: pa.ChunkedArray, table_rows: int, is_hashed: bool) -> tuple[Int64, Int64]:
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        offsets = array.offsets.to_numpy().astype(np.int64)
        array = array.values
    else:
        offsets = np.arange(len(array) + 1)

    if pa.types.is_string(array.type):
        encoded = array.dictionary_encode()
        hashes = [xxhash.xxh3_64_intdigest(text.encode()) for text in encoded.dictionary.to_pylist()]
        numbers = np.array(hashes, np.uint64).view(np.int64)[encoded.indices.to_numpy()]
    else:
        numbers = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if not is_hashed:
        assert numbers.min(initial=0) >= 0
        assert numbers.max(initial=0) < table_rows
    return (fold(numbers, table_rows) if is_hashed else numbers), offsets


def _scaled(column: pa.ChunkedArray, feature: DenseFeature) -> torch.Tensor:
    numbers = column.combine_chunks().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if feature.transform == "log1p":
        numbers = np.copysign(np.log1p(np.abs(numbers)), numbers)
    numbers = (numbers - (feature.mean or 0.0)) / (feature.scale or 1.0)
    return torch.from_numpy(np.nan_to_num(numbers).astype(np.float32))


def _numbers(column: pa.ChunkedArray) -> torch.Tensor:
    array = column.combine_chunks().cast(pa.float32(), safe=False).fill_null(np.nan)
    return torch.from_numpy(array.to_numpy(zero_copy_only=False).copy())


class RowGroups(IterableDataset[PlainBatch]):
    """The same for a DataLoader: each worker reads every n-th row group, pass after pass."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __iter__(self) -> Iterator[PlainBatch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        groups = range(first, len(self._reading.manifest.rows), step)
        while True:
            yield from plain_batches(self._reading, groups)
