"""What devices can do: published figures, and the share of them that training is taken to reach.

GPUs, all figures of one GPU in its SXM form, without sparsity; a link's bytes are those of one direction:

    h100   NVIDIA H100 data sheet; DGX H100 user guide (8 GPUs, 2 TB of memory, a 400 Gb/s adapter each)
    h200   NVIDIA H200 data sheet; DGX H200 user guide (as DGX H100)
    a100   NVIDIA A100 data sheet, 80 GB; DGX A100 user guide (8 GPUs, 2 TB of memory, a 200 Gb/s adapter each)

`A100_P4D` is the machine of the published runs (`trainer.planning.published`): 40 GB, and four 100 Gb/s adapters for
8 GPUs.

No GPU has been measured here. Efficiencies are assumptions, from below what is commonly reported of such kernels; the
cost of a step's launches is fitted to one published run, and the others say how far off the whole is.
"""

from dataclasses import dataclass, replace
from typing import Literal

Precision = Literal["float32", "tf32", "bf16"]
_GIB = 2**30
_VISIBLE = 0.99
"""Share of a GPU's memory that its driver leaves to programs: an H100 of 80 GB has 79.1 GiB."""


@dataclass(frozen=True)
class Efficiency:
    """Share of a device's figures that is reached."""

    products: float
    """Of its FLOP/s, by the head's matrix products."""
    lookup: float
    """Of its memory's bandwidth, by reading embeddings."""
    update: float
    """Likewise, by adding gradients up and writing rows."""
    streaming: float
    """Likewise, by element-wise functions and the dense optimizer."""
    links: float
    """Of a link's bandwidth, by collectives."""


@dataclass(frozen=True)
class Device:
    """What one rank computes on. Rates are per second and rank."""

    name: str
    type: Literal["cuda", "cpu"]
    local_size: int
    """Ranks of a node."""
    memory: int
    """Bytes of its own; 0 on a CPU."""
    host_memory: int
    """Bytes of a node."""
    memory_rate: float
    """Bytes read or written."""
    flops: dict[Precision, float]
    link_rate: float
    """Bytes to the other ranks of its node."""
    network_rate: float
    """Bytes to other nodes."""
    host_link_rate: float
    """Bytes to its host's memory."""
    efficiency: Efficiency
    step_seconds: float
    """What a step takes beside all its parts: launches, Python."""
    lookup_seconds: float | None = None
    """Of each id that is looked up, if measured; None: it follows from its bytes."""
    update_seconds: float | None = None
    """Of each id whose gradient is added, likewise."""
    reading_seconds: float = 0.0
    """Of each value that is read and decoded, on one thread."""
    measured: str = ""
    """How, if its figures are measured."""

    @property
    def overlaps(self) -> bool:
        """Whether copies, exchange of ids and reading go on beside the step: a CPU's ranks have no spare cores."""
        return self.type == "cuda"


VALUE_SECONDS = 25e-9
"""Of a value that is read and decoded on one thread: docs/benchmarks.md, "Reading" and "What bounds a step", where
0.8 µs a row of 36 values and 35 to 43 ms for 2,048 rows of 800 ids were measured."""
_GPU_EFFICIENCY = Efficiency(products=0.5, lookup=0.5, update=0.35, streaming=0.7, links=0.6)
_LAUNCH_SECONDS = 6.95e-3
"""Fitted to the published run with 256 rows a rank (7.2 ms a step), where hardly anything else takes time."""

_H100 = Device(
    name="h100",
    type="cuda",
    local_size=8,
    memory=int(80 * _GIB * _VISIBLE),
    host_memory=2048 * _GIB,
    memory_rate=3.35e12,
    flops={"float32": 67e12, "tf32": 494e12, "bf16": 989e12},
    link_rate=450e9,
    network_rate=50e9,
    host_link_rate=64e9,
    efficiency=_GPU_EFFICIENCY,
    step_seconds=_LAUNCH_SECONDS,
    reading_seconds=VALUE_SECONDS,
)
_A100 = Device(
    name="a100",
    type="cuda",
    local_size=8,
    memory=int(80 * _GIB * _VISIBLE),
    host_memory=2048 * _GIB,
    memory_rate=2.039e12,
    flops={"float32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    link_rate=300e9,
    network_rate=25e9,
    host_link_rate=32e9,
    efficiency=_GPU_EFFICIENCY,
    step_seconds=_LAUNCH_SECONDS,
    reading_seconds=VALUE_SECONDS,
)
GPUS: dict[str, Device] = {
    "h100": _H100,
    "h200": replace(_H100, name="h200", memory=int(141 * _GIB * _VISIBLE), memory_rate=4.8e12),
    "a100": _A100,
}
A100_P4D = replace(
    _A100,
    name="a100 40 GB",
    memory=int(40 * _GIB * _VISIBLE),
    host_memory=1152 * _GIB,
    memory_rate=1.555e12,
    network_rate=6.25e9,
)
NAMES = (*GPUS, "cpu")
