"""Peak memory of reading a config's training data in other sizes, files and row groups: it should always be the same.

    python -m experiments.reading_memory configs/quickstart.toml --memory 1GB

Each dataset is written to a temporary folder, from copies of the config's rows, and read to its end by a process of its
own, as one rank with two threads reads it in training.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
from rich.table import Table

from data.discovery.dataset import read_manifest
from data.statistics import measure
from data.stream import stream
from trainer.config.load import load_config
from trainer.config.measured import complete, with_block_rows
from trainer.console import make_console
from trainer.datasets import as_configured, train_reading
from trainer.process.host import peak_bytes

MILLION = 10**6
FILE_ROWS = 250_000


def write_files(source: Path, folder: Path, num_rows: int, file_rows: int, group_rows: int) -> None:
    """The first rows of the source, over and over, in files of `file_rows` and row groups of `group_rows`."""
    folder.mkdir()
    table = pq.read_table(source)
    table = table.slice(0, table.num_rows // file_rows * file_rows)
    starts = range(0, table.num_rows, file_rows)
    for number in range(num_rows // file_rows):
        path = folder / f"part-{number:05d}.parquet"
        if number < len(starts):
            part = table.slice(starts[number], file_rows)
            pq.write_table(part, path, row_group_size=group_rows, compression="zstd")
        else:
            shutil.copy(folder / f"part-{number % len(starts):05d}.parquet", path)


DATASETS: dict[str, Callable[[Path, Path], None]] = {
    "1M rows, 4 files": lambda source, out: write_files(source, out, MILLION, FILE_ROWS, 32_768),
    "100M rows, 400 files": lambda source, out: write_files(source, out, 100 * MILLION, FILE_ROWS, 32_768),
    "2M rows, 10 files": lambda source, out: write_files(source, out, 2 * MILLION, 200_000, 32_768),
    "2M rows, 10,000 files": lambda source, out: write_files(source, out, 2 * MILLION, 200, 200),
    "2M rows, row groups of 10k": lambda source, out: write_files(source, out, 2 * MILLION, 2 * MILLION, 10_000),
    "2M rows, row groups of 1M": lambda source, out: write_files(source, out, 2 * MILLION, 2 * MILLION, MILLION),
}


def read_all(config_path: str, folder: str, memory: str) -> None:
    """Prints rows of a block, rows, seconds and peak memory of one pass."""
    changes = [f'data.train="{folder}"', f'data.memory="{memory}"', "data.repeat=true"]
    config = load_config(config_path, changes)
    reading = train_reading(config, read_manifest(folder, cache=None))
    config = with_block_rows(complete(config, measure(reading)), reading, world_size=1)
    reading = as_configured(reading, config, {})

    begin = time.perf_counter()
    batches = stream(reading, range(reading.lanes), 0, threads=2)
    num_batches = sum(1 for _ in islice(batches, reading.batches_per_epoch))
    seconds = time.perf_counter() - begin
    batches.close()
    sys.stdout.write(f"{reading.block_rows} {num_batches * reading.global_batch_size} {seconds} {peak_bytes() / 1e6}\n")


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--memory", default="1GB", help="data.memory")
    parser.add_argument("--folder", help="read this dataset alone")
    arguments = parser.parse_args()
    if arguments.folder:
        read_all(arguments.config, arguments.folder, arguments.memory)
        return

    table = Table("dataset", "rows of a block", "M rows/s", "peak, MB", title=f"data.memory = {arguments.memory}")
    source = Path(load_config(arguments.config).data.train_source.uris[0])
    for name, write in DATASETS.items():
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            write(source, Path(folder) / "train")
            command = [sys.executable, "-m", "experiments.reading_memory", arguments.config]
            options = ["--memory", arguments.memory, "--folder", f"{folder}/train"]
            found = subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE, text=True)
            block_rows, rows, seconds, peak = found.stdout.split()[-4:]
            table.add_row(name, block_rows, f"{float(rows) / float(seconds) / 1e6:.2f}", f"{float(peak):,.0f}")
    make_console().print(table)


if __name__ == "__main__":
    main()
