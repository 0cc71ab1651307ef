"""How long a training step takes with each method of balancing the tasks, against one that adds the losses up.

One rank, features as in the quickstart, one batch over and over. Beside each method that takes the tasks' gradients:

    limit   the constant step, and the FLOPs of a pass back through the head for each task at the rate of a large
            matrix product: gradients of the shared representation alone, 1 of the 3 products of a training step
    naive   a whole backward pass for each task, tables included, as `loss.backward(retain_graph=True)` makes it

Beside those that take none, what they add (`own`): too little to be seen between two models, whose memory lies in
different places. So steps with and without the method take turns in one model.

Each head and number of tasks has a process of its own. Between any two methods a constant step is timed, and ratios are
taken with the mean of those before and after, since the speed of a shared machine drifts; figures are medians. The row
`constant` is one more model without a method: how far it is from 1 is what the figures are worth.
"""

import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import models.balancers
from benchmarks.machine import Product, synchronise
from data.batch import Batch
from data.errors import ExpectedError
from models.balancers.balancer import Balancer
from models.cost import head_cost
from models.ranker import Ranker
from trainer.build_model import build_balancer, build_sharded_model
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World, choose_device, start_world
from trainer.process.host import keep_freed_memory

METHODS: tuple[str, ...] = tuple(name for name in models.balancers.METHODS if name != "rotograd")
"""Without the one that takes a trunk."""
HEADS = ("shared_bottom", "adatt")
TASKS = (2, 5, 20)
CONSTANT, OBSERVED = "constant", "constant, observed"
WARM_UP_ROUNDS = 1
STEPS = 3
OWN_ROUNDS = 60
_TABLES = {"user": 100_000, "video": 50_000, "author": 10_000, "tag": 2_000, "category": 60, "region": 32, "hour": 24}
_TABLES |= {"device": 12, "tab": 6, "network": 4}
_LISTS = ("recent", "tag")
_IDS_PER_LIST = 8
_DIM, _DENSE = 48, 12
"""All as in configs/quickstart.toml."""
_SAMPLES = 1_000_000_000
"""At which the steps are: gradnorm and dwa have gathered the losses that they begin with."""

Step = Callable[[], object]


class _Model(NamedTuple):
    step: Step
    balancer: Balancer | None


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    head: str
    tasks: int
    batch: int = 1024
    methods: tuple[str, ...] = METHODS


def bench_balance(settings: Iterable[Setting], threads: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Figures of each setting and method, as `--json` prints them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.balance"])

    for setting in settings:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield from pool.submit(_measure, setting, threads, rounds).result()
            except BrokenProcessPool as error:
                raise ExpectedError(
                    f"bench balance: the process that measured {setting.tasks} tasks was killed, probably out of "
                    "memory; give a smaller --batch or fewer --tasks"
                ) from error


def _measure(setting: Setting, threads: int, rounds: int) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    # One batch over and over is learned by heart, and arithmetic on the tiny gradients then is twice as slow.
    torch.set_flush_denormal(True)
    keep_freed_memory()
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # as the program does
    device = choose_device()
    world = World(0, 1, 0, 1, device)
    with tempfile.TemporaryDirectory() as folder, start_world(world, dist.FileStore(f"{folder}/store", 1), 60):
        config = _config(setting, CONSTANT)
        batch = _batch(config, setting.batch).to(device)
        names = [CONSTANT, OBSERVED, *(name for name in setting.methods if name != CONSTANT)]
        base = _model(config, world, batch).step
        models = {name: _model(_config(setting, name), world, batch) for name in names}
        steps = {name: model.step for name, model in models.items()}
        steps["naive"] = _naive_step(config, world, batch)
        medians, rate = _timed(base, steps, Product(device), device, rounds)
        own = {name: _own_seconds(model) for name, model in models.items()}

    flops = head_cost(config.model, _width(config), config.head_tasks).forward_flops
    limit = 1 + setting.tasks * flops * setting.batch / rate / medians[CONSTANT].seconds
    takes_gradients = {name: _takes_gradients(_config(setting, name)) for name in names}
    naive = medians["naive"].of_constant
    return [
        {
            "method": name,
            "head": setting.head,
            "tasks": setting.tasks,
            "batch": setting.batch,
            "threads": threads,
            "step_seconds": medians[name].seconds,
            "of_constant": medians[name].of_constant,
            "cpu_of_constant": medians[name].cpu_of_constant,
            "own_seconds": own[name],
            "limit_of_constant": limit if takes_gradients[name] else 1.0,
            "naive_of_constant": naive if takes_gradients[name] else None,
            "head_flops_per_sample": flops,
            "matmul_flops_per_second": rate,
        }
        for name in names
    ]


class Taken(NamedTuple):
    """By a step."""

    seconds: float
    cpu_seconds: float
    """Of all threads: what other programs on the machine do shows less in them."""


class Medians(NamedTuple):
    """Over the rounds."""

    seconds: float
    of_constant: float
    cpu_of_constant: float


def _timed(
    base: Step, steps: dict[str, Step], product: Product, device: torch.device, rounds: int
) -> tuple[dict[str, Medians], float]:
    """(figures of each step beside `base`, product rate)."""
    taken: dict[str, list[Medians]] = {name: [] for name in steps}
    rates = []
    for _ in range(WARM_UP_ROUNDS + rounds):
        rates.append(product.flops_per_second())
        before = _time(base, device)
        for name, step in steps.items():
            now = _time(step, device)
            after = _time(base, device)
            ratios = [2 * each / (one + other) for each, one, other in zip(now, before, after, strict=True)]
            taken[name].append(Medians(now.seconds, *ratios))
            before = after

    medians = {
        name: Medians(*map(statistics.median, zip(*of_rounds[WARM_UP_ROUNDS:], strict=True)))
        for name, of_rounds in taken.items()
    }
    return medians, statistics.median(rates[WARM_UP_ROUNDS:])


def _time(step: Step, device: torch.device) -> Taken:
    """Of one of STEPS in a row, after one that finds the caches full of another model."""
    step()
    synchronise(device)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        step()
    synchronise(device)
    return Taken((time.perf_counter() - begin) / STEPS, (time.process_time() - cpu_begin) / STEPS)


def _config(setting: Setting, name: str) -> Config:
    method = {"method": CONSTANT, "observe": True} if name == OBSERVED else {"method": name}
    columns = [*(name for name in _TABLES if name not in _LISTS), *_LISTS]
    experts = {"task_experts": 2, "shared_experts": 1} if setting.head == "adatt" else {}
    dense = [{"column": f"dense_{index}", "mean": 0.0, "scale": 1.0} for index in range(_DENSE)]
    task: dict[str, Any] = {"kind": "binary", "weight": 1.0, "label_mean": 0.5}
    values = {
        "run": {"dir": "bench-balance"},
        "data": {"train": "bench-balance", "test": "bench-balance", "global_batch_size": setting.batch, "lanes": 1},
        "features": {
            "dense": dense,
            "sparse": [{"column": name, "table": "video" if name == "recent" else name} for name in columns],
        },
        "tables": [{"name": name, "rows": rows, "dim": _DIM} for name, rows in _TABLES.items()],
        "tasks": [{"name": f"task_{number}", "label": f"label_{number}", **task} for number in range(setting.tasks)],
        "model": {"head": setting.head, "levels": [[256], [128]], "tower": [64], **experts},
        "train": {"samples": 2 * _SAMPLES},
        "balance": method,
    }
    return parse_config(values, "bench balance")


def _batch(config: Config, rows: int) -> Batch:
    """Random ids, numbers and labels."""
    generator = torch.Generator().manual_seed(config.run.seed)
    table_rows = {table.name: table.rows for table in config.tables}
    features = config.features.sparse
    counts = [_IDS_PER_LIST if feature.column in _LISTS else 1 for feature in features]
    ids = [
        torch.randint(table_rows[feature.table], (rows * count,), generator=generator)
        for feature, count in zip(features, counts, strict=True)
    ]
    lengths = torch.tensor(counts).repeat_interleave(rows)
    names = [feature.name for feature in features]
    num_tasks = len(config.tasks)
    return Batch(
        sparse=KeyedJaggedTensor.from_lengths_sync(names, torch.cat(ids), lengths),
        dense_BD=torch.randn(rows, len(config.features.dense), generator=generator),
        labels_BT=(torch.rand(rows, num_tasks, generator=generator) < 0.5).float(),
        label_weights_BT=torch.ones(rows, num_tasks),
        weights_B=torch.ones(rows),
        row_ids_B=torch.arange(rows),
    )


def _width(config: Config) -> int:
    return len(config.features.sparse) * _DIM + len(config.features.dense)


def _takes_gradients(config: Config) -> bool:
    balancer = build_balancer(config, _width(config))
    return balancer is not None and balancer.method.gradients != "none"


def _own_seconds(model: _Model) -> float | None:
    """CPU time that a method which looks at losses alone adds to a step; None for the others."""
    balancer = model.balancer
    if balancer is None or balancer.at is not None:
        return None

    differences = []
    for number in range(WARM_UP_ROUNDS + OWN_ROUNDS):
        seconds = dict.fromkeys((True, False), 0.0)
        for balances in (True, False) if number % 2 else (False, True):
            balancer.train(balances)  # in evaluation it adds the losses up
            begin = time.process_time()
            model.step()
            seconds[balances] = time.process_time() - begin
        differences.append(seconds[True] - seconds[False])
    return statistics.median(differences[WARM_UP_ROUNDS:])


def _model(config: Config, world: World, batch: Batch) -> _Model:
    """With a whole training step by its pipeline."""
    pipeline = build_sharded_model(config, world, 2 * _SAMPLES).pipeline
    batches = repeat(batch)

    def step() -> None:
        pipeline.begin(_SAMPLES)
        pipeline.progress(batches)

    return _Model(step, pipeline.balancer)


class _Apart(nn.Module):
    """In the place of a balancer: leaves the losses of the tasks apart."""

    at = "nowhere"

    def forward(self, losses_T: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return losses_T


def _naive_step(config: Config, world: World, batch: Batch) -> Step:
    sharded = build_sharded_model(config, world, 2 * _SAMPLES)
    ranker = cast(Ranker, sharded.model.module)
    ranker.balancer = cast(Balancer, _Apart())
    optimizer = sharded.optimizer.combined

    def step() -> None:
        optimizer.zero_grad()
        losses_T, _ = ranker(batch)
        for loss in losses_T:
            loss.backward(retain_graph=True)
        optimizer.step()

    return step
