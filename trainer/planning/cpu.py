"""This machine as a device: its figures are measured now, with as many processes at work as it would have ranks."""

import statistics

from benchmarks.rates import Rates, Shape, measure_rates
from trainer.config.run_config import Config
from trainer.planning.devices import VALUE_SECONDS, Device, Efficiency
from trainer.planning.workload import Workload
from trainer.sharding.memory import host_memory

_NETWORK_RATE = 1.25e9
"""Bytes per second between nodes: 10 Gb/s, which is not measured."""
_TABLES = 4
"""That are measured."""
_STEP_SECONDS = 5e-3
"""What a step takes beside its parts: a guess, not measured."""


def measure_cpu(config: Config, work: Workload, local_size: int) -> Device:
    """A rank of a node of `local_size` ranks like this machine."""
    return cpu_device(measure_rates(local_size, shape_of(config, work)), local_size, host_memory())


def shape_of(config: Config, work: Workload) -> Shape:
    """A head and tables as the config's: its middle table, and the mean width and number of ids."""
    num_features = len(config.features.sparse) or 1
    dims = sum(work.features_of[table.name] * table.dim for table in config.tables_held)
    ids = sum(work.ids_per_row.values())
    return Shape(
        head=config.model,
        columns=config.columns,
        tasks=tuple(config.head_tasks),
        table_rows=int(statistics.median([table.rows for table in config.tables_held] or [1])),
        dim=max(4, round(dims / num_features / 4) * 4),
        features_of_tables=features_of_tables(work),
        bags=config.data.global_batch_size,
        ids_per_bag=max(1, round(ids / num_features)),
    )


def features_of_tables(work: Workload) -> tuple[int, ...]:
    """Numbers of features of a few tables that stand for all: evenly spaced among the sorted ones."""
    counts = sorted(count for count in work.features_of.values() if count) or [1]
    return tuple(counts[(2 * place + 1) * len(counts) // (2 * _TABLES)] for place in range(_TABLES))


def cpu_device(rates: Rates, local_size: int, memory: int) -> Device:
    """From what has been measured; `memory`: bytes of the machine."""
    return Device(
        name="cpu",
        type="cpu",
        local_size=local_size,
        memory=0,
        host_memory=memory,
        memory_rate=rates.copied,
        flops={"float32": rates.head_flops},
        link_rate=rates.exchanged,
        network_rate=_NETWORK_RATE,
        host_link_rate=rates.copied,
        efficiency=Efficiency(products=1.0, lookup=1.0, update=1.0, streaming=1.0, links=1.0),
        step_seconds=_STEP_SECONDS,
        lookup_seconds=rates.lookup_seconds,
        update_seconds=rates.update_seconds,
        reading_seconds=VALUE_SECONDS,
        measured=f"{rates.processes} processes at once, {rates.threads} threads each",
    )
