"""A head that is given the true relations between the tasks of the synthetic log: what knowing them is worth.

    python -m experiments.known_relations experiments/synthetic.toml --out runs/known_relations --seeds 17 18 19

A network for each hidden signal, and from them each task by its true mixing (`data.synthetic.tasks`). How the tab
varies each weight, and all of the signals, it has to learn. At the training FLOPs of the config's own head.

It is no head of the program: in the processes of this experiment it stands in the place of shared_bottom, so that all
else is `adatt train`. The runs' records call it shared_bottom, and no other process can read their checkpoints: the
test set is scored here, into OUT/SEED-predictions.

Shapes: B rows, F features, T tasks, C signals.
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from data.synthetic.tasks import TASK_GROUPS
from data.synthetic.world import SIGNALS
from models.heads.base import Head, HeadConfig
from models.heads.shared_bottom import SharedBottomConfig
from models.layers import GroupedLinear, GroupedMLP
from trainer.config.load import load_config, toml_text
from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.studies.equal_flops import at_equal_flops
from trainer.studies.pages import markdown_table
from trainer.studies.results import evaluations_at_end
from trainer.studies.tables import StudyTable, mean_cell

MIXING = {task.name: task.mixing_C for group in TASK_GROUPS.values() for task in group}
VARIATION = 0.5
"""Most by which the tab varies a weight, up or down."""
PLACE = 'model={head = "shared_bottom", levels = [[128], [64]], tower = []}'


class KnownRelationsHead(Head):
    """logit_t = scale_t · Σ_c mixing_tc (1 + 0.5 tanh(linear_tc(x))) signal_c(x) + bias_t"""

    mixing_TC: torch.Tensor

    def __init__(self, config: HeadConfig, num_features: int, mixing_TC: torch.Tensor) -> None:
        super().__init__()
        alone = [1] * mixing_TC.shape[1]
        layers = config.end_to_end
        self.hidden = GroupedMLP(alone, num_features, layers, config.activation, config.dropout)
        self.signals = GroupedLinear(alone, layers[-1], 1)
        self.variation = GroupedLinear([mixing_TC.shape[0]], num_features, mixing_TC.shape[1], "tanh")
        self.scale_T = nn.Parameter(torch.ones(len(mixing_TC)))
        self.bias_T = nn.Parameter(torch.zeros(len(mixing_TC)))
        self.register_buffer("mixing_TC", mixing_TC, persistent=False)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        hidden_BCH = self.hidden(features_BF.unsqueeze(1).expand(-1, len(SIGNALS), -1))
        signal_BC = self.signals(hidden_BCH).squeeze(2)
        weights_BTC = self.mixing_TC * (1 + VARIATION * self.variation(features_BF))
        return self.scale_T * torch.einsum("btc,bc->bt", weights_BTC, signal_BC) + self.bias_T


def in_place_of_shared_bottom(tasks: Sequence[str]) -> AbstractContextManager[object]:
    """Within it, and in this process, shared_bottom is this head for these tasks."""
    rows = [MIXING[task] for task in tasks]

    def build(config: SharedBottomConfig, num_features: int, tasks: Sequence[str]) -> Head:
        assert len(tasks) == len(rows)
        return KnownRelationsHead(config, num_features, torch.tensor(rows))

    return patch.object(SharedBottomConfig, "build", build)


def tasks_of(config: Config) -> list[str]:
    """Those that the head has a logit for; ConfigError for one that the synthetic log does not have."""
    names = list(config.head_tasks)
    for name in names:
        if name not in MIXING:
            raise ConfigError(f"tasks.{name}: no task of the synthetic log; choose from {', '.join(MIXING)}")
    return names


def head_change(path: str, changes: list[str]) -> str:
    """The head, as `--set` takes it, in the width at which it costs what the config's own head costs."""
    reference = load_config(path, changes)
    with in_place_of_shared_bottom(tasks_of(reference)):
        head = at_equal_flops(load_config(path, [*changes, PLACE]), reference)
    return f"model.levels={json.dumps(head.levels)}"


def adatt(tasks: Sequence[str], arguments: list[str]) -> int:
    """Its exit code, with this head in place."""
    from trainer.cli.app import run

    with in_place_of_shared_bottom(tasks):
        return run(arguments)


def run_all(tasks: Sequence[str], commands: Sequence[list[str]], parallel: int) -> None:
    """Commands of adatt, so many at a time, on one thread each; ends with the exit code of one that fails."""
    os.environ["OMP_NUM_THREADS"] = "1"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trainer.studies.preload"])
    with ProcessPoolExecutor(parallel, processes, max_tasks_per_child=1) as pool:
        codes = list(pool.map(partial(adatt, tasks), commands))
    if any(codes):
        sys.exit(max(codes))


def table(runs: Sequence[Path]) -> StudyTable:
    """NE or MSE at the end, over the runs."""
    ends = [evaluations_at_end(run) for run in runs]
    header = [f"{task} {record.main_metric.upper()}" for task, record in ends[0].items()]
    values = [mean_cell([end[task].main for end in ends]) for task in ends[0]]
    return StudyTable("Known relations", ["", *header], [["known_relations", *values]])


def main(arguments: Sequence[str]) -> None:
    """Trains a run for each seed, scores the test set and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, SEED by SEED")
    parser.add_argument("--seeds", nargs="+", type=int, default=[17, 18, 19])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config")
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time, one thread each")
    options = parser.parse_args(arguments)

    config = load_config(options.config, options.set)
    changes = [*options.set, PLACE, head_change(options.config, options.set)]
    runs = [options.out / str(seed) for seed in options.seeds]
    trainings = []
    for seed, run in zip(options.seeds, runs, strict=True):
        of_run = [*changes, f"run.seed={seed}", f"run.dir={toml_text(str(run))}"]
        trainings.append(["train", options.config, *(part for change in of_run for part in ("--set", change))])
    run_all(tasks_of(config), trainings, options.parallel)

    unscored = [run for run in runs if not Path(f"{run}-predictions").exists()]
    of_test = ["--data", str(config.data.test)]
    scorings = [["predict", str(run), *of_test, "--out", f"{run}-predictions"] for run in unscored]
    run_all(tasks_of(config), scorings, options.parallel)
    sys.stdout.write(f"{changes[-1]}\n\n{markdown_table(table(runs))}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
