"""A plan as `adatt plan --json` prints it: one object for each number of ranks."""

from dataclasses import asdict
from typing import Any

from trainer.planning.devices import Device
from trainer.planning.plan import Size, TooBig
from trainer.planning.published import Checked
from trainer.sharding.plan import Placement

Record = dict[str, Any]


def record_of(result: Size | TooBig, published: list[Checked]) -> Record:
    """Seconds, bytes and rates; keys that do not apply are null or empty."""
    cluster = result.cluster
    head = {"world_size": cluster.size, "nodes": cluster.nodes, "device": cluster.device.name}
    if isinstance(result, TooBig):
        return {**head, **_NOTHING, "fits": False, "lack": result.lack, "ways": result.ways}

    return {
        **head,
        "tables": [_table(placement) for placement in result.placements],
        "ranks": _ranks(result),
        "balance": result.balance,
        "parts": result.parts.as_dict(),
        "step_seconds": result.step_seconds,
        "samples_per_second": result.samples_per_second,
        "bottleneck": result.bottleneck,
        "read_bytes_per_second": result.read_bytes_per_second,
        "hours": result.hours,
        "checkpoint_bytes": result.checkpoint_bytes,
        "head_flops_per_sample": result.work.head.training_flops,
        "fits": result.fits,
        "lack": result.lack,
        "ways": result.ways,
        "assumptions": [*result.work.assumptions, basis_of(cluster.device)],
        "published": [_checked(checked) for checked in published],
    }


_NOTHING: Record = {
    "tables": [],
    "ranks": [],
    "balance": {},
    "parts": {},
    "step_seconds": None,
    "samples_per_second": None,
    "bottleneck": None,
    "read_bytes_per_second": None,
    "hours": {},
    "checkpoint_bytes": None,
    "head_flops_per_sample": None,
    "assumptions": [],
    "published": [],
}


def _table(placement: Placement) -> Record:
    return {**asdict(placement), "ranks": list(placement.ranks)}


def _ranks(size: Size) -> list[Record]:
    """Memory and load of each rank."""
    return [
        {
            "rank": rank,
            **asdict(memory),
            "used_bytes": memory.used,
            "free_bytes": size.cluster.memory - memory.used,
            "host_copy_bytes": copy,
            "ids": load.ids,
            "lookup_bytes": load.row_bytes,
            "sent_bytes": load.link_bytes + load.network_bytes,
        }
        for rank, (memory, copy, load) in enumerate(zip(size.memory, size.host_copy, size.loads, strict=True))
    ]


def _checked(checked: Checked) -> Record:
    return {**asdict(checked.run), "predicted_samples_per_second": checked.predicted, "error": checked.error}


def basis_of(device: Device) -> str:
    """What the predicted times rest on."""
    if device.measured:
        return f"times are a model; its rates were measured on this machine just now ({device.measured})"
    efficiency = device.efficiency
    return (
        f"times are a model, not a measurement: published figures of {device.name}, of which products reach "
        f"{efficiency.products:.0%}, lookups {efficiency.lookup:.0%}, updates {efficiency.update:.0%}, links "
        f"{efficiency.links:.0%} (assumed), and {device.step_seconds * 1e3:.1f} ms a step for launches (fitted)"
    )
