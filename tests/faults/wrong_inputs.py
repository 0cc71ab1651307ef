"""Wrong input in a loop: it always ends with 2 and one `error:` line, alone and on two ranks under the launcher.

    python -m tests.faults.wrong_inputs 200

Python's own way out ended about one process in a hundred with 134 instead (`trainer.process.ending`). Each start is a
process of its own, from the shell's view; a table of the exit codes is printed, and the exit code is 1 if one is not 2.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from tests.trainer.datasets import config_values, nothing_to_measure, write_dataset

HOME = Path(__file__).parents[2]
ALONE, LAUNCHED, TORCHRUN = "trainer", "launch.entrypoint", "torch.distributed.run"
EXPECTED = {ALONE: 2, LAUNCHED: 2, TORCHRUN: 1}
"""torchrun has one code for every failure."""
TIME_LIMIT_SECONDS = 600.0


def write_inputs(folder: Path) -> list[str]:
    """Configs that are wrong in ways that are found early, late, by all ranks and by one of them."""
    write_dataset(folder / "train", 600, seed=1)
    write_dataset(folder / "test", 101, seed=2)
    write_dataset(folder / "bad", 600, seed=1)
    _spoil(folder / "bad" / "part-1.parquet")
    bad = {"train": str(folder / "bad"), "test": str(folder / "test"), "global_batch_size": 64, "lanes": 4}
    wrong: dict[str, dict[str, Any]] = {
        "unknown-key": {"train": {"samples": 512, "sample": 1}},
        "no-data": {"data": {**bad, "train": str(folder / "nowhere")}},
        "too-long": {"train": {"samples": "20k"}},
        "bad-row": {"data": bad, "train": {"samples": 512}, **nothing_to_measure(folder)},
    }
    return [_write(folder, name, sections) for name, sections in wrong.items()]


def _write(folder: Path, name: str, sections: dict[str, Any]) -> str:
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(config_values(folder, **sections)), encoding="utf-8")
    return str(path)


def _spoil(path: Path) -> None:
    """A label of 2 in a row that one rank reads."""
    table = pq.read_table(path)
    labels = table["click"].to_pylist()
    labels[5] = 2
    place = table.schema.get_field_index("click")
    pq.write_table(table.set_column(place, "click", pa.array(labels, pa.int8())), path, row_group_size=97)


def end_of(way: str, config: str) -> tuple[int, list[str]]:
    """Exit code and `error:` lines of one start."""
    torchrun = ["--standalone", "--nproc-per-node", "2", "-m", "trainer"]
    call = [sys.executable, "-m", way, *(torchrun if way == TORCHRUN else []), "train", config]
    environment = {**os.environ, "PROCESSES": "2", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        call, cwd=HOME, env=environment, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_SECONDS
    )
    lines = found.stderr.splitlines()
    return found.returncode, lines if way != TORCHRUN else [line for line in lines if line.startswith("error: ")]


def main(number: int) -> int:
    """The exit code."""
    begin, codes, unexpected = time.monotonic(), Counter[tuple[str, str, int]](), 0
    with tempfile.TemporaryDirectory() as folder:
        configs = write_inputs(Path(folder))
        for index in range(number):
            way, config = list(EXPECTED)[index % 3], configs[index // 3 % len(configs)]
            code, lines = end_of(way, config)
            codes[way, Path(config).stem, code] += 1
            if code != EXPECTED[way] or len(lines) != 1 or not lines[0].startswith("error: "):
                unexpected += 1
                sys.stdout.write(f"{way} {config}: {code}, {lines}\n")
    sys.stdout.write("| started by | wrong input | exit code | times |\n|---|---|---|---|\n")
    for (way, name, code), times in sorted(codes.items()):
        sys.stdout.write(f"| {way} | {name} | {code} | {times} |\n")
    sys.stdout.write(f"\n{number} in {time.monotonic() - begin:,.0f} s, {unexpected} not as expected\n")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
