"""How fast training is, beside what the head's products alone would take on this machine.

The bound: samples/s if every rank did nothing but the head's forward and backward FLOPs at the rate of a large square
matrix product, measured in the same run on all ranks at once, with the same number of threads.
"""

import resource
import statistics
import time
from itertools import islice
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from data.stream import stream
from trainer.build import (
    build_model,
    build_trainee,
    check_lanes,
    open_dataset,
    train_reading,
)
from trainer.config import Config
from trainer.world import World

WARM_UP_BATCHES = 10
PRODUCT_SIZE = 2048
"""Side of the square product whose rate is the limit."""


def bench_train(config: Config, world: World, batches: int) -> dict[str, Any]:
    """Trains a few batches without a run directory; figures as `--json` prints them. Collective: call on all ranks."""
    check_lanes(config, world)
    reading = train_reading(config, open_dataset(config.data.train, config, world))
    trainee = build_trainee(config, world, config.train.samples)
    source = stream(reading, world.lanes(reading.lanes), 0, threads=config.data.threads)
    batches = min(batches, reading.batches_per_epoch - WARM_UP_BATCHES)
    supply = islice(source, WARM_UP_BATCHES + batches)
    rates = [_product_rate(world)]
    for _ in range(WARM_UP_BATCHES):
        trainee.pipeline.progress(supply)
    _synchronise(world)
    wait, begin, steps = source.wait_seconds, time.perf_counter(), []
    for _ in range(batches):
        step_begin = time.perf_counter()
        trainee.pipeline.progress(supply)
        steps.append(time.perf_counter() - step_begin)
    _synchronise(world)
    seconds, wait = time.perf_counter() - begin, source.wait_seconds - wait
    source.close()
    rates.append(_product_rate(world))
    flops = head_flops_per_sample(config)
    bound = statistics.mean(rates) * world.size / flops
    return {
        "world_size": world.size,
        "samples_per_second": batches * reading.global_batch_size / seconds,
        "step_seconds": statistics.median(steps),
        "data_wait_fraction": wait / seconds,
        "checkpoint_stall_seconds": None,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
        "head_flops_per_sample": flops,
        "matmul_flops_per_second": statistics.mean(rates),
        "bound_samples_per_second": bound,
        "fraction_of_bound": batches * reading.global_batch_size / seconds / bound,
    }


def head_flops_per_sample(config: Config) -> float:
    """Forward and backward FLOPs of the head's matrix products, per sample; its input gets a gradient too."""
    ranker = build_model(config, tables_on=torch.device("meta"))
    head = ranker.head.to("meta")
    features_BF = torch.zeros(64, ranker.features.width, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        head(features_BF).sum().backward()
    return counter.get_total_flops() / 64


def _product_rate(world: World) -> float:
    """FLOP/s of a large matrix product on this rank, all ranks computing at once; the mean over ranks."""
    left, right = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=world.device) for _ in range(2))
    rates = []
    for _ in range(6):
        _synchronise(world)
        begin = time.perf_counter()
        left @ right
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(2 * PRODUCT_SIZE**3 / (time.perf_counter() - begin))
    return float(world.sum(torch.tensor(statistics.median(rates), device=world.device))) / world.size


def _synchronise(world: World) -> None:
    world.sum(torch.zeros(1, device=world.device)).cpu()
