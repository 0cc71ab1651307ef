"""A plan as tables for people."""

from rich.table import Table

from trainer.planning.devices import Device
from trainer.planning.plan import Size, TooBig
from trainer.planning.published import Checked
from trainer.planning.ways import gib

_SHOWN_RANKS = 8


def summary_table(size: Size) -> Table:
    """What a training takes, in a few lines."""
    cluster = size.cluster
    title = f"{cluster.size} ranks of {cluster.device.name} on {cluster.nodes} nodes, predicted"
    table = _table(title, ("figure",), ("value",))
    for name, value in _summary(size).items():
        table.add_row(name, value)
    return table


def _summary(size: Size) -> dict[str, str]:
    parts = {f"  {name.replace('_', '-')}": _milliseconds(seconds) for name, seconds in size.parts.as_dict().items()}
    hours = {f"hours to {text}": f"{hours:,.2f}" for text, hours in size.hours.items()}
    balance = ", ".join(f"{name.replace('_', ' ')} {ratio:.2f}" for name, ratio in size.balance.items())
    fullest = max(size.memory, key=lambda memory: memory.used)
    memory = f"{gib(fullest.used)} of {gib(size.cluster.memory)}"

    return {
        "samples/s": f"{size.samples_per_second:,.0f}",
        "step": _milliseconds(size.step_seconds),
        "parts, each alone": f"longest: {size.bottleneck.replace('_', '-')}",
        **parts,
        "head, forward + backward": f"{size.work.head.training_flops / 1e6:,.2f} MFLOP/sample",
        "reading needs": f"{size.read_bytes_per_second / 1e6:,.0f} MB/s ({size.work.bytes_per_row:,.0f} bytes a row)",
        **hours,
        "checkpoint": gib(size.checkpoint_bytes),
        "memory of the fullest rank": memory if size.fits else f"{memory}: does not fit",
        "busiest rank ÷ mean": balance,
    }


def placement_table(size: Size) -> Table:
    """Where each table lies."""
    table = _table("tables", ("table", "sharding", "kernel", "type"), ("rows", "dim", "weights", "ranks"))
    for placement in size.placements:
        ranks = placement.ranks
        shown = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}–{ranks[-1]}"
        cells = (f"{placement.rows:,}", str(placement.dim), gib(placement.bytes), shown)
        sharding = f"{placement.sharding} ({placement.note})" if placement.note else placement.sharding
        table.add_row(placement.table, sharding, placement.kernel, placement.dtype, *cells)
    return table


def rank_table(size: Size) -> Table:
    """Memory of the fullest and emptiest ranks."""
    order = sorted(range(len(size.memory)), key=lambda rank: -size.memory[rank].used)
    if len(order) > _SHOWN_RANKS:
        order = [*order[: _SHOWN_RANKS // 2], *order[-_SHOWN_RANKS // 2 :]]
    title = "memory of each rank" if len(order) == len(size.memory) else "memory of the fullest and emptiest ranks"
    columns = ("rank", "tables", "optimizer", "head", "activations", "exchange", "batches", "copy", "used", "free")
    table = _table(title, (), (*columns, "host's copy"))
    for rank in order:
        memory = size.memory[rank]
        parts = (memory.tables, memory.optimizer, memory.head, memory.activations, memory.exchange, memory.batches)
        free = size.cluster.memory - memory.used
        numbers = (*parts, memory.copy, memory.used, free, size.host_copy[rank])
        table.add_row(str(rank), *(gib(number) for number in numbers))
    return table


def sweep_table(results: list[Size | TooBig]) -> Table:
    """A line for each number of ranks."""
    milestones = next((list(result.hours) for result in results if isinstance(result, Size)), [])
    hours = (f"h to {text}" for text in milestones)
    numbers = ("ranks", "nodes", "samples/s", "step", "fullest rank", "reading, MB/s", *hours)
    table = _table("by number of ranks, predicted", (), numbers)
    table.add_column("bottleneck, or why it does not fit")
    for result in results:
        place = (str(result.cluster.size), str(result.cluster.nodes))
        if isinstance(result, TooBig):
            blank = [""] * (len(numbers) - len(place))
            table.add_row(*place, *blank, f"{result.lack}; {', or '.join(result.ways)}")
        else:
            table.add_row(*place, *_sweep_cells(result), result.lack or result.bottleneck.replace("_", "-"))
    return table


def _sweep_cells(size: Size) -> list[str]:
    return [
        f"{size.samples_per_second:,.0f}",
        _milliseconds(size.step_seconds),
        gib(max(memory.used for memory in size.memory)),
        f"{size.read_bytes_per_second / 1e6:,.0f}",
        *(f"{hours:,.2f}" for hours in size.hours.values()),
    ]


def published_table(published: list[Checked]) -> Table:
    """The model beside trainings that others have timed."""
    title = "the same model beside published trainings of DLRM on A100s (40 GB)"
    table = _table(title, ("optimizer",), ("GPUs", "batch", "published, M/s", "predicted, M/s", "error"))
    table.add_column("note")
    for checked in published:
        run = checked.run
        rate = f"{run.low / 1e6:.2f}" if run.low == run.high else f"{run.low / 1e6:.2f}–{run.high / 1e6:.2f}"
        sizes = (str(run.gpus), f"{run.global_batch_size:,}")
        predicted = f"{checked.predicted / 1e6:.2f}"
        table.add_row(run.optimizer, *sizes, rate, predicted, f"{checked.error:+.0%}", run.note)
    return table


def device_line(device: Device) -> str:
    """What a rank is taken to have."""
    flops = ", ".join(f"{name} {rate / 1e12:,.2f}" for name, rate in device.flops.items())
    return (
        f"{device.name}: memory {device.memory_rate / 1e9:,.0f} GB/s, TFLOP/s {flops}, links "
        f"{device.link_rate / 1e9:,.1f} GB/s, network {device.network_rate / 1e9:,.2f} GB/s a rank"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms"


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for name in texts:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
