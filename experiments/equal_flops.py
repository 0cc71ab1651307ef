"""Every head at equal training FLOPs on one config: NE (MSE for regression) per task at the end, for several seeds.

    python -m experiments.equal_flops configs/quickstart.toml runs/equal_flops --milestones 300k 900k --seeds 17 18

The reference is AdaTT with 2 experts per task and 1 shared, levels [128], [64]. Every other head keeps the number of
experts that goes with that, and takes the width whose FLOPs are nearest. Runs that have ended are not repeated.
"""

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from models.cost import head_cost
from models.heads import HEADS
from models.heads.base import HeadConfig
from trainer.build_model import build_model
from trainer.config.load import load_config
from trainer.config.run_config import Config
from trainer.run.jsonl import read_records

EXPERTS: dict[str, dict[str, int]] = {
    "shared_bottom": {},
    "single_task": {},
    "cross_stitch": {},
    "mmoe": {"experts": 11},
    "ml_mmoe": {"experts": 11},
    "ple": {"task_experts": 2, "shared_experts": 1},
    "adatt_sp": {"task_experts": 2},
    "adatt": {"task_experts": 2, "shared_experts": 1},
}
REFERENCE_WIDTH = 128
WIDTHS = range(16, 4096, 4)
Record = dict[str, Any]


def head_of_width(name: str, width: int) -> HeadConfig:
    """A head with levels [width], [width / 2]."""
    return HEADS[name](levels=((width,), (width // 2,)), **EXPERTS[name])


def equal_heads(config: Config) -> dict[str, HeadConfig]:
    """Each head in the width at which it costs what the reference costs."""
    inputs = build_model(config, tables_on=torch.device("meta")).features.width

    def flops(head: HeadConfig) -> int:
        return head_cost(head, inputs, len(config.tasks)).training_flops

    target = flops(head_of_width("adatt", REFERENCE_WIDTH))
    found = {}
    for name in EXPERTS:
        above = next(width for width in WIDTHS if flops(head_of_width(name, width)) >= target)
        nearest = min((above, above - WIDTHS.step), key=lambda width: abs(flops(head_of_width(name, width)) - target))
        found[name] = head_of_width(name, nearest)
        cost = head_cost(found[name], inputs, len(config.tasks))
        levels, experts = [list(level) for level in found[name].levels], EXPERTS[name] or "–"
        numbers = f"{cost.training_flops / 1e6:.3f} | {cost.parameters:,}"
        sys.stdout.write(f"| {name} | {levels} | {experts} | {numbers} |\n")
    sys.stdout.flush()
    return found


def train(config_path: str, head: HeadConfig, seed: int, milestones: list[str], folder: Path) -> Path:
    """Trains one run on one thread to the last milestone; returns its folder."""
    name = head.model_dump()["head"]
    folder = folder / f"{name}-{seed}"
    levels = [list(level) for level in head.levels]
    experts = "".join(f", {key} = {value}" for key, value in EXPERTS[name].items())
    changes = {
        "run.dir": f'"{folder}"',
        "run.seed": seed,
        "model": f'{{head = "{name}", levels = {levels}{experts}}}',
        "train.samples": f'"{milestones[-1]}"',
        "evaluate.at_samples": str(milestones),
    }
    options = [text for key, value in changes.items() for text in ("--set", f"{key}={value}")]
    call = [sys.executable, "-m", "trainer", "train", config_path, *options]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def table(runs: dict[str, list[Path]]) -> str:
    """Markdown: a head a row, a task a column; the mean over seeds, and the values of each."""
    records = {name: [last_evaluation(folder) for folder in folders] for name, folders in runs.items()}
    first = next(iter(records.values()))[0]
    tasks = [record["task"] for record in first]
    lines = ["| head | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for name, seeds in records.items():
        cells = []
        for task in range(len(tasks)):
            values = [value(seed[task]) for seed in seeds]
            cells.append(f"{statistics.mean(values):.4f} ({' '.join(f'{one:.4f}' for one in values)})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if first[0]["oracle_ne"] or first[0]["oracle_mse"]:
        lines.append("| oracle | " + " | ".join(f"{value(record, 'oracle_'):.4f}" for record in first) + " |")
    return "\n".join(lines)


def last_evaluation(folder: Path) -> list[Record]:
    """The records of a run's newest evaluation, one for each task."""
    records = [record for record in read_records(folder / "evaluations.jsonl") if record["by"] is None]
    return [record for record in records if record["samples"] == records[-1]["samples"]]


def value(record: Record, prefix: str = "") -> float:
    """NE, or MSE of a regression task."""
    return float(record[prefix + ("ne" if record["kind"] == "binary" else "mse")])


def main() -> None:
    """Runs the study, two runs at a time."""
    parser = argparse.ArgumentParser(description="Every head at equal FLOPs.")
    parser.add_argument("config")
    parser.add_argument("out", type=Path)
    parser.add_argument("--milestones", nargs="+", default=["2.1M"], help="samples; the last one ends the training")
    parser.add_argument("--heads", nargs="+", choices=EXPERTS, default=list(EXPERTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18])
    parser.add_argument("--parallel", type=int, default=2)
    options = parser.parse_args()
    heads = equal_heads(load_config(options.config))
    with ThreadPoolExecutor(options.parallel) as pool:
        pending = {
            name: [
                pool.submit(train, options.config, head, seed, options.milestones, options.out)
                for seed in options.seeds
            ]
            for name, head in heads.items()
            if name in options.heads
        }
        runs = {name: [run.result() for run in started] for name, started in pending.items()}
    sys.stdout.write(table(runs) + "\n")


if __name__ == "__main__":
    main()
