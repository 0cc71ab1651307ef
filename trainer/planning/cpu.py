"""This machine as a device: its figures are measured now, with as many processes at work as it would have ranks."""

from benchmarks.rates import Rates, measure_rates
from trainer.planning.devices import VALUE_SECONDS, Device, Efficiency
from trainer.sharding.memory import host_memory

_PRODUCTS = 0.8
"""Of a large product's rate, by a head's: docs/benchmarks.md, "Heads", at batch 4,096."""
_UPDATE_MOVES = 3
"""Times that an id's row goes through memory: its gradient is read, the row read and written."""
_NETWORK_RATE = 1.25e9
"""Bytes per second between nodes: 10 Gb/s, which is not measured."""
_STEP_SECONDS = 5e-3


def measure_cpu(local_size: int) -> Device:
    """A rank of a node of `local_size` ranks like this machine."""
    return cpu_device(measure_rates(local_size), local_size, host_memory())


def cpu_device(rates: Rates, local_size: int, memory: int) -> Device:
    """From what has been measured; `memory`: bytes of the machine."""
    return Device(
        name="cpu",
        type="cpu",
        local_size=local_size,
        memory=0,
        host_memory=memory,
        memory_rate=rates.copied,
        flops={"float32": rates.flops},
        link_rate=rates.exchanged,
        network_rate=_NETWORK_RATE,
        host_link_rate=rates.copied,
        efficiency=Efficiency(
            products=_PRODUCTS,
            lookup=_share(1, rates.lookup_byte_seconds, rates.copied),
            update=_share(_UPDATE_MOVES, rates.update_byte_seconds, rates.copied),
            streaming=1.0,
            links=1.0,
        ),
        step_seconds=_STEP_SECONDS,
        lookup_row_seconds=max(rates.lookup_row_seconds, 0.0),
        update_row_seconds=max(rates.update_row_seconds, 0.0),
        reading_seconds=VALUE_SECONDS,
        measured=f"{rates.processes} processes at once, {rates.threads} threads each",
    )


def _share(moves: int, byte_seconds: float, rate: float) -> float:
    """Of `rate`, by what takes `byte_seconds` for a byte that moves so many times."""
    return moves / (byte_seconds * rate) if byte_seconds > 0 else 1.0
