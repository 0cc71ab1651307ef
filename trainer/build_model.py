"""Builds the model of a run from its config: planned, sharded over the ranks, with its optimizer and pipeline."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel, DMPCollection
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingPlan

from models.balancers import ConstantConfig
from models.balancers.balancer import Balancer
from models.balancers.method import Group
from models.balancers.settings import Tasks
from models.embedding import FeatureLayer
from models.ranker import Ranker
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.sharding.devices import check_device
from trainer.sharding.init_weights import initialise_dense, initialise_tables
from trainer.sharding.optimizers import Optimizer
from trainer.sharding.options import FusedSharder
from trainer.sharding.padding import rows_held
from trainer.sharding.plan import Placement, Ranks, placements, plan_tables, process_group
from trainer.sharding.replicas import averaging, copies_of_tables, ranks_of_copy
from trainer.step.guard import StepGuard
from trainer.step.pipeline import GuardedPipeline


@dataclass(frozen=True)
class ShardedModel:
    """The sharded model with its optimizer and pipeline."""

    model: DistributedModelParallel
    optimizer: Optimizer
    pipeline: GuardedPipeline
    placements: list[Placement]

    def guard_with(self, guard: StepGuard) -> None:
        """Has every training step judged by `guard`, and not applied where it is unsound."""
        self.pipeline.guard_with(guard)
        if guard.on_device is not None:
            self.optimizer.skip_where(guard.on_device.found_inf)


def build_model(config: Config, tables_on: torch.device, held: dict[str, int] | None = None) -> Ranker:
    """The unsharded model, dense weights drawn from the seed; `held`: rows of tables that hold more than they have."""
    frozen = [table.name for table in config.tables if config.init is not None and config.init.freezes(table.name)]
    features = FeatureLayer(config.tables_held, config.features, tables_on, frozen, held, config.embeddings_per_id)
    head = config.model.build_for(features.columns, config.head_tasks)
    balancer = build_balancer(config, features.columns.width)
    if balancer is not None and balancer.at == "trunk":
        head.meet_at_trunk(balancer.gate)
    ranker = Ranker(features, head, config.tasks, config.train.precision == "bf16", balancer)
    initialise_dense(ranker.head, config.run.seed)
    if balancer is not None:
        initialise_dense(balancer, config.run.seed)
    return ranker


def build_balancer(config: Config, num_features: int) -> Balancer | None:
    """What weighs the tasks; None where their losses are added up, and nobody looks at their gradients."""
    balance = config.balance
    if isinstance(balance, ConstantConfig) and not balance.observe:
        return None
    tasks = Tasks(config.tasks, num_features if balance.at == "features" else config.model.end_to_end[-1])
    return Balancer(balance, tasks, config.data.global_batch_size, config.run.seed)


def _same_sums_after_a_resume() -> DefaultDataParallelWrapper:
    """DDP that adds gradients up in the same order in every step of every start.

    By default it lays its buckets out anew after the first step of a process, and from 3 ranks on the order in which a
    ring adds up depends on the place in the bucket. It does not where it looks for unused parameters; there are none.
    """
    return DefaultDataParallelWrapper(static_graph=False, find_unused_parameters=True)


def build_sharded_model(config: Config, world: World, total_samples: int, *, saves: bool = True) -> ShardedModel:
    """Plans, shards and initialises the model; `saves`: it will be saved. Collective: call on all ranks."""
    check_device(config.tables_held, config.optimizer.sparse, config.sharding, world.device.type)
    if config.train.precision == "bf16" and world.device.type != "cuda":
        raise ConfigError("train.precision = 'bf16' needs a GPU; use 'float32' on a CPU")

    ranks = ranks_of_copy(config.sharding, Ranks(world.size, world.local_size, world.device.type))
    held = rows_held(config.tables_held, ranks.size, ranks.local_size)
    ranker = build_model(config, torch.device("meta"), held)
    global_batch_size = config.data.global_batch_size
    sharder = FusedSharder(config.tables_held, config.sharding, config.optimizer.sparse, global_batch_size)
    plan = plan_tables(ranker, sharder, world, ranks, global_batch_size // world.size, saves=saves)
    placed = placements(plan, sharder, held)
    model = _shard(ranker, plan, sharder, world, ranks)
    initialise_tables(model, config.tables_held, config.run.seed)
    optimizer = Optimizer(config.optimizer, config.tables_held, model, total_samples, fused_dense=world.runs_ahead)
    pipeline = GuardedPipeline(model, optimizer.combined, world.device, execute_all_batches=True)
    pipeline.head, pipeline.seed = ranker.head, config.run.seed
    if ranker.balancer is not None:
        if world.size > 1:
            apart = world if world.runs_ahead else world.with_own_group()
            ranker.balancer.ranks = Group(world.rank, world.size, apart.sum)
        pipeline.balancer = ranker.balancer
    if isinstance(model, DMPCollection):
        pipeline.averaging = averaging(model, config.sharding, global_batch_size, total_samples)

    return ShardedModel(model, optimizer, pipeline, placed)


def _shard(
    ranker: Ranker, plan: ShardingPlan, sharder: FusedSharder, world: World, ranks: Ranks
) -> DistributedModelParallel:
    """`ranks`: over which each copy of the tables is spread; all of them where there is one."""
    parts: dict[str, Any] = {
        "module": ranker,
        "device": world.device,
        "plan": plan,
        "sharders": [cast(ModuleSharder[nn.Module], sharder)],
        "data_parallel_wrapper": _same_sums_after_a_resume(),
    }
    if ranks.size == world.size:
        return DistributedModelParallel(env=ShardingEnv.from_process_group(process_group()), **parts)
    return copies_of_tables(parts, world, ranks)
