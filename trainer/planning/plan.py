"""What a training of a config would take on described ranks: the plan that it would get there, memory, time."""

from dataclasses import dataclass

import torch
from torchrec.distributed.planner.types import PlannerError

from trainer.build_model import build_model
from trainer.config.run_config import Config
from trainer.planning.copies import copies_of
from trainer.planning.memory import RankMemory, checkpoint_bytes, held_tables, rank_memory
from trainer.planning.placed import PlacedTable, RankLoad, placed_tables, rank_loads
from trainer.planning.prediction import StepParts, predict_step
from trainer.planning.topology import Cluster
from trainer.planning.ways import gib, lack, need_of, ways_out
from trainer.planning.workload import Workload
from trainer.sharding.options import FusedSharder
from trainer.sharding.padding import rows_held
from trainer.sharding.plan import Placement, placements, spread_tables


@dataclass(frozen=True)
class Size:
    """What a training takes."""

    cluster: Cluster
    work: Workload
    placements: list[Placement]
    tables: list[PlacedTable]
    loads: list[RankLoad]
    memory: list[RankMemory]
    host_copy: list[int]
    """Bytes that a save copies to the host's memory, of each GPU."""
    parts: StepParts
    step_seconds: float
    checkpoint_bytes: int
    milestones: dict[str, int]
    """Samples, by their text."""

    @property
    def samples_per_second(self) -> float:
        """Of all ranks."""
        return self.work.global_batch_size / self.step_seconds

    @property
    def hours(self) -> dict[str, float]:
        """To each milestone, without evaluations and saves."""
        return {text: samples / self.samples_per_second / 3600 for text, samples in self.milestones.items()}

    @property
    def read_bytes_per_second(self) -> float:
        """That the store of the data must give to all ranks."""
        return self.samples_per_second * self.work.bytes_per_row

    @property
    def fits(self) -> bool:
        """Whether every rank has the memory: the planner leaves a share for what is not tables, which may be more."""
        return max(memory.used for memory in self.memory) <= self.cluster.memory

    @property
    def bottleneck(self) -> str:
        """The part of a step that takes longest."""
        return self.parts.bottleneck

    @property
    def lack(self) -> str | None:
        """By how much the fullest rank's memory is too small, if it is."""
        over = max(memory.used for memory in self.memory) - self.cluster.memory
        if over <= 0:
            return None
        return (
            f"the fullest rank needs {gib(over)} more than its {gib(self.cluster.memory)}, with activations and batches"
        )

    @property
    def ways(self) -> list[str]:
        """What would fit, if this does not."""
        return [] if self.fits else ["a smaller data.global_batch_size", "more ranks"]

    @property
    def balance(self) -> dict[str, float]:
        """The busiest rank beside the mean: bytes of tables, bytes looked up, bytes sent."""
        return {
            "table_bytes": _over_mean([memory.tables for memory in self.memory]),
            "lookup_bytes": _over_mean([load.row_bytes for load in self.loads]),
            "sent_bytes": _over_mean([load.pooled_bytes for load in self.loads]),
        }


@dataclass(frozen=True)
class TooBig:
    """Tables that do not fit, and what would."""

    cluster: Cluster
    lack: str
    ways: list[str]
    fits: bool = False


def size_training(config: Config, work: Workload, cluster: Cluster) -> Size | TooBig:
    """By the planner that a training on such ranks would ask, on tables without memory."""
    copies = copies_of(config, cluster, work)
    copy = copies.cluster
    rows_of_tables = rows_held(config.tables_held, copy.size, copy.local_size)
    ranker = build_model(config, torch.device("meta"), rows_of_tables)
    sharder = FusedSharder(config.tables_held, config.sharding, config.optimizer.sparse, config.data.global_batch_size)
    rows = config.data.global_batch_size // cluster.size
    try:
        plan = spread_tables(ranker, sharder, copy.ranks, cluster.budget, rows, saves=True)
    except PlannerError:
        need = need_of(config)
        return TooBig(cluster, lack(config, need, cluster), ways_out(config, need, cluster))

    tables = placed_tables(plan, sharder)
    loads = rank_loads(tables, copies.work, copy)
    held = held_tables(tables, copy.size)
    parts, seconds = predict_step(tables, work, cluster, copies)
    host_copy = [weights + state for weights, state in zip(held.weights, held.state, strict=True)]
    if cluster.device.type == "cpu":
        host_copy = [0] * copy.size

    return Size(
        cluster=cluster,
        work=work,
        placements=placements(plan, sharder, rows_of_tables),
        tables=tables,
        loads=copies.on_all_ranks(loads),
        memory=copies.on_all_ranks(rank_memory(held, loads, tables, copies.work, copy)),
        host_copy=copies.on_all_ranks(host_copy),
        parts=parts,
        step_seconds=seconds,
        checkpoint_bytes=checkpoint_bytes(held, work),
        milestones=milestones_of(config),
    )


def milestones_of(config: Config) -> dict[str, int]:
    """Samples of the evaluations and of the end; without an end in samples, of the former alone."""
    milestones = {milestone.text: milestone.samples for milestone in config.evaluate.at_samples}
    end = config.train.samples
    if isinstance(end, int) and end not in milestones.values():
        milestones[f"{end:,}"] = end
    return milestones


def _over_mean(values: list[int] | list[float]) -> float:
    mean = sum(values) / len(values)
    return max(values) / mean if mean else 1.0
