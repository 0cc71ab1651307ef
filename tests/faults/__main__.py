"""The long form of the fault suite: `make faults`. Prints a table for docs/reliability.md; exit 1 if a promise breaks.

Every run trains one pass over 8,000 rows with a trace, and is killed with SIGKILL once in every start: at random times,
random ranks, in every phase, on one number of ranks or on changing ones; then every head on two.
"""

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.kills import PHASES, Kill, fault_config, final_tensors, finish, rows_by_trace, train_through_kills
from tests.trainer.datasets import write_dataset
from tests.trainer.test_worlds import HEADS
from trainer.analysis.audit.audit import audit_run
from trainer.config.run_config import Config

ROWS, KILLS_PER_RUN, KILLS_PER_HEAD = 8_000, 8, 4
RUNS: list[tuple[str, list[int]]] = [
    ("1", [1]),
    ("2", [2]),
    ("4", [4]),
    ("1, 2, 4 in turn", [1, 2, 4]),
    ("4, 2, 1 in turn", [4, 2, 1]),
    ("at random", []),
]
HEAD_RUNS: list[tuple[str, dict[str, Any]]] = [
    (f"2, {head}", {"head": head, "levels": [[16], [8]], "tower": [8], **keys}) for head, keys in HEADS.items()
]


def main() -> int:
    """The exit code."""
    begin, broken, deaths = time.monotonic(), 0, 0
    sys.stdout.write(
        "| ranks | SIGKILLs | training / save / evaluation / restart | inside a save / an evaluation | rows once | "
        "lost | repeated | audit | tensors at the end |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "train", ROWS, seed=1)
        write_dataset(Path(folder) / "test", 8_001, seed=2)
        runs: list[tuple[str, list[int], int, dict[str, Any] | None]]
        runs = [(name, cycle, KILLS_PER_RUN, None) for name, cycle in RUNS]
        runs += [(name, [2], KILLS_PER_HEAD, model) for name, model in HEAD_RUNS]
        for number, (name, cycle, num_kills, model) in enumerate(runs):
            config = fault_config(Path(folder), Path(folder) / f"run-{number}", model)
            kills, last = _kill_and_finish(config, cycle, num_kills, seed=number)
            whole = fault_config(Path(folder), Path(folder) / f"whole-{number}", model)
            finish(whole, last)
            rows, problems = rows_by_trace(config), audit_run(config.run.dir).promises_broken
            same = final_tensors(config) == final_tensors(whole)
            fixed = len(set(cycle)) == 1
            ok = rows == {1: ROWS} and not problems and (same or not fixed)
            broken, deaths = broken + (not ok), deaths + sum(kill.died for kill in kills)
            _print_row(name, kills, rows, problems, "identical" if same else "differ in rounding" if ok else "DIFFER")
    sys.stdout.write(f"\n{deaths} kills in {time.monotonic() - begin:,.0f} s\n")
    return 1 if broken else 0


def _kill_and_finish(config: Config, cycle: list[int], num_kills: int, seed: int) -> tuple[list[Kill], int]:
    """What was done to the run, and the number of ranks of the start that ended it."""
    chance = random.Random(seed)
    sizes = [cycle[index % len(cycle)] if cycle else chance.choice([1, 2, 4]) for index in range(num_kills + 1)]
    phases = [PHASES[index % len(PHASES)] for index in range(num_kills)]
    chance.shuffle(phases)
    kills = train_through_kills(config, sizes[:-1], phases, seed)
    finish(config, sizes[-1])
    return kills, sizes[-1]


def _print_row(name: str, kills: list[Kill], rows: dict[int, int], problems: tuple[str, ...], tensors: str) -> None:
    died = Counter(kill.phase for kill in kills if kill.died)
    phases = " / ".join(str(died[phase]) for phase in PHASES)
    inside = Counter(kill.phase for kill in kills if kill.died and kill.inside)
    hits = " / ".join(str(inside[phase]) for phase in ("save", "evaluation"))
    once = rows.get(1, 0)
    repeated = sum(count for times, count in rows.items() if times > 1)
    verdict = "; ".join(problems) or "kept"
    counts = [f"{once:,}", f"{ROWS - once - repeated}", str(repeated)]
    cells = [name, f"{died.total()}", phases, hits, *counts, verdict, tensors]
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
