"""Plans for one or several numbers of ranks."""

from dataclasses import replace

from data.errors import ExpectedError
from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.planning.cpu import measure_cpu
from trainer.planning.devices import GPUS, NAMES, Device
from trainer.planning.plan import Size, TooBig, size_training
from trainer.planning.topology import Cluster, check_ranks, local_size_of
from trainer.planning.workload import workload_of
from trainer.sharding.devices import check_device


def parse_world_sizes(text: str) -> list[int]:
    """Of "128" or "8,16,32", each once and ascending; raises ExpectedError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) <= 1 << 16 for part in parts):
        raise ExpectedError(f"--world-size {text!r}: write a number of ranks, or several as in 8,16,32")
    return sorted({int(part) for part in parts})


def plan_sizes(
    config: Config, sizes: list[int], device: str, nodes: int | None, ids_per_row: list[str]
) -> list[Size | TooBig]:
    """A plan for each number of ranks; raises ExpectedError for what no training could be started with."""
    if device not in NAMES:
        raise ConfigError(f"--device: unknown device {device!r}; choose from {', '.join(NAMES)}")
    _check_device(config, device)

    full_node = 0 if device == "cpu" else GPUS[device].local_size
    places = []
    for size in sizes:
        check_ranks(config, size)
        places.append((size, local_size_of(device, full_node, size, nodes)))

    work = workload_of(config, ids_per_row)
    devices: dict[int, Device] = {}
    for _, local in places:
        if local not in devices:
            devices[local] = (
                measure_cpu(config, work, local) if device == "cpu" else replace(GPUS[device], local_size=local)
            )
    most = config.sharding.memory
    return [size_training(config, work, Cluster(devices[local], size, local, most)) for size, local in places]


def _check_device(config: Config, device: str) -> None:
    """As a training would: some things need a GPU."""
    if device != "cpu":
        return
    if config.train.precision == "bf16":
        raise ConfigError("train.precision = 'bf16' needs a GPU; choose another --device, or float32")
    check_device(config.tables_held, config.optimizer.sparse, config.sharding, device)
