"""How fast each head is, forward and backward, beside its loop version and the machine's matrix-product rate.

Every measurement has a process of its own. Head, loop and product are timed in turn, round by round, and ratios are
taken within a round, since the speed of a shared machine drifts; figures are medians over the rounds.
"""

import multiprocessing
import statistics
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn

from benchmarks.loops import build_loop
from benchmarks.machine import Product, synchronise
from data.errors import ExpectedError
from models.cost import head_cost
from models.heads import HEADS
from models.heads.base import HeadConfig
from models.per_layer_state import per_module_state
from trainer.distributed.world import choose_device
from trainer.process.host import peak_bytes

WARM_UP_ROUNDS = 2
LEVELS, TOWER = ((256,), (128,)), (64,)
"""The paper's (section 4.2)."""
ONE_WIDTH = ((192,), (192,))
HEADS_OF_ONE_WIDTH = ("soft_ordering", "sluice", "adashare")
"""Whose levels must be alike."""


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    head: str
    tasks: int = 5
    task_experts: int = 3
    shared_experts: int = 1
    batch: int = 4096
    inputs: int = 512

    @property
    def task_names(self) -> tuple[str, ...]:
        """One for each task."""
        return tuple(f"task {number}" for number in range(self.tasks))

    def config(self) -> HeadConfig:
        """The head's config. Heads without experts of tasks have as many in all; branched parts after one level."""
        in_all = self.tasks * self.task_experts + self.shared_experts
        counts = {"task_experts": self.task_experts, "shared_experts": self.shared_experts, "experts": in_all}
        fields = HEADS[self.head].model_fields
        values: dict[str, Any] = {key: value for key, value in counts.items() if key in fields}
        if "tree" in fields:
            values["tree"] = ((self.task_names,), tuple((name,) for name in self.task_names))

        levels = ONE_WIDTH if self.head in HEADS_OF_ONE_WIDTH else LEVELS
        return HEADS[self.head](levels=levels, tower=TOWER, **values)


def all_settings() -> list[Setting]:
    """The paper's settings, a small batch, and a large head of 20 tasks and 64 experts; each distinct head once."""
    grid: list[Setting] = []
    for tasks, experts in product((2, 5), (1, 2, 3, 4)):
        grid += [Setting(head, tasks, experts) for head in HEADS]

    grid += [Setting(head, batch=256) for head in HEADS]
    for batch in (256, 4096):
        grid += [Setting(head, 20, 3, 4, batch) for head in HEADS]

    # Heads without experts of tasks come several times; the first of each stays.
    distinct: dict[tuple[HeadConfig, int, int], Setting] = {}
    for setting in grid:
        distinct.setdefault((setting.config(), setting.tasks, setting.batch), setting)

    return list(distinct.values())


def bench_heads(settings: Iterable[Setting], threads: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Figures of each setting, as `--json` prints them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.heads"])

    for setting in settings:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield pool.submit(_measure, setting, threads, rounds).result()
            except BrokenProcessPool as error:
                raise ExpectedError(
                    f"bench heads: the process that measured {setting} was killed, probably out of memory; "
                    "give a smaller --batch or fewer experts"
                ) from error


def _measure(setting: Setting, threads: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    device = choose_device()
    config = setting.config()
    tasks = setting.task_names
    cost = head_cost(config, setting.inputs, tasks)
    features_BF = torch.randn(setting.batch, setting.inputs, device=device)
    before = _peak_bytes(device)
    head = config.build(setting.inputs, tasks).to(device)

    for _ in range(WARM_UP_ROUNDS):
        _seconds(head, features_BF)

    peak_bytes = _peak_bytes(device) - before
    loop = build_loop(config, setting.inputs, setting.tasks).to(device)
    loop.load_state_dict(per_module_state(head))
    products = Product(device)
    rates = []
    ours = []
    loops = []

    for index in range(WARM_UP_ROUNDS + rounds):
        # In turn, between products on both sides, since the speed of a shared machine drifts.
        rate = products.flops_per_second()
        seconds = _seconds(head, features_BF)
        rate_after = products.flops_per_second()
        loop_seconds = _seconds(loop, features_BF)
        if index >= WARM_UP_ROUNDS:
            rates.append((rate + rate_after) / 2)
            ours.append(seconds)
            loops.append(loop_seconds)

    flops = cost.training_flops * setting.batch
    experts = {key: getattr(config, key, None) for key in ("task_experts", "shared_experts", "experts")}
    speedups = [loop / our for loop, our in zip(loops, ours, strict=True)]
    fractions = [flops / our / rate for our, rate in zip(ours, rates, strict=True)]
    loop_fractions = [flops / loop / rate for loop, rate in zip(loops, rates, strict=True)]

    return {
        "head": setting.head,
        "batch": setting.batch,
        "tasks": setting.tasks,
        **experts,
        "input": setting.inputs,
        "threads": threads,
        "samples_per_second": setting.batch / statistics.median(ours),
        "loop_samples_per_second": setting.batch / statistics.median(loops),
        "speedup": statistics.median(speedups),
        "matmul_fraction": statistics.median(fractions),
        "loop_matmul_fraction": statistics.median(loop_fractions),
        "matmul_flops_per_second": statistics.median(rates),
        "parameters": cost.parameters,
        "flops_per_sample": cost.training_flops,
        "peak_bytes": peak_bytes,
    }


def _seconds(head: nn.Module, features_BF: torch.Tensor) -> float:
    """One forward and backward; the input gets a gradient, as behind embeddings."""
    features_BF = features_BF.detach().requires_grad_()
    head.zero_grad(set_to_none=True)
    synchronise(features_BF.device)
    begin = time.perf_counter()
    head(features_BF).sum().backward()
    synchronise(features_BF.device)

    return time.perf_counter() - begin


def _peak_bytes(device: torch.device) -> int:
    """Largest memory so far: of the allocator on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_bytes()
