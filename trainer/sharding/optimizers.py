"""One optimizer for the dense part, one fused into the backward pass of the tables, one schedule for both.

The fused optimizer updates the rows that a batch touched while their gradients are computed, so a table's gradient
never exists as a whole.
"""

from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from models.tables import table_key
from trainer.sharding.settings import (
    DenseOptimizerConfig,
    OptimizerConfig,
    Schedule,
    ShardedTableConfig,
    SparseOptimizerConfig,
)

_DENSE: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}
_FUSED = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "adam": EmbOptimType.ADAM,
    "sgd": EmbOptimType.EXACT_SGD,
}


def fused_params(config: SparseOptimizerConfig, global_batch_size: int) -> dict[str, Any]:
    """The optimizer of a table as fbgemm's embedding kernels take it."""
    is_rowwise = config.name == "rowwise_adagrad"  # the one for which fbgemm asks how, and else leaves it out
    return {
        "stochastic_rounding": False,  # as on CPUs, which know no other: its bits would depend on the ranks
        "optimizer": _FUSED[config.name],
        "learning_rate": config.learning_rate,
        "eps": config.eps / global_batch_size,
        "weight_decay": config.weight_decay,
        "weight_decay_mode": WeightDecayMode.L2 if is_rowwise else WeightDecayMode.NONE,
    }


def build_dense_optimizer(
    config: DenseOptimizerConfig, model: DistributedModelParallel, *, fused: bool
) -> KeyedOptimizer:
    """Optimizer of the parameters that no fused optimizer owns; `fused`: one kernel, which obeys `found_inf`."""
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": fused or None}
    parameters = dict(in_backward_optimizer_filter(model.named_parameters()))
    optimizer = KeyedOptimizerWrapper(parameters, lambda values: _DENSE[config.name](values, **options))
    if config.clip_norm is None:
        return optimizer
    return GradientClippingOptimizer(optimizer, GradientClipping.NORM, max_gradient=config.clip_norm)


class Optimizer:
    """Both optimizers under their schedules; `combined` is what the pipeline steps and a checkpoint keeps."""

    def __init__(
        self,
        config: OptimizerConfig,
        tables: tuple[ShardedTableConfig, ...],
        model: DistributedModelParallel,
        total_samples: int,
        *,
        fused_dense: bool = False,
    ) -> None:
        """`fused_dense`: the dense optimizer is torch's fused one, as `skip_where` needs it."""
        fused = model.fused_optimizer
        dense = build_dense_optimizer(config.dense, model, fused=fused_dense)
        self._dense = dense
        self._dense_config = config.dense
        self.combined = CombinedOptimizer([("sparse", fused), ("dense", dense)])
        rates = learning_rates(config.sparse, tables, fused)
        self._groups: list[tuple[Any, Schedule, float]]
        self._groups = [(group, config.sparse, rate) for group, rate in zip(fused.param_groups, rates, strict=True)]
        self._groups += [(group, config.dense, config.dense.learning_rate) for group in dense.param_groups]
        self._total_samples = total_samples
        self._allocate_state()

    def skip_where(self, found_inf: torch.Tensor) -> None:
        """Has the dense optimizer change nothing in steps at which `found_inf`, a number on the device, is not 0."""
        innermost: Any = self._dense
        while isinstance(innermost, KeyedOptimizer):
            innermost = innermost._optimizer  # type: ignore[attr-defined]
        innermost.found_inf = found_inf

    @torch.no_grad()
    def _allocate_state(self) -> None:
        """Makes the dense optimizer's state exist as before the first step, so that every checkpoint holds all of it.

        torch makes it in the first step; torchrec's way to have it earlier is a step with gradients of zero.
        """
        before = {name: parameter.detach().clone() for name, parameter in self._dense.params.items()}
        self._dense.init_state()

        for name, parameter in self._dense.params.items():
            parameter.copy_(before[name])
            for value in self._dense.state[parameter].values():
                if isinstance(value, torch.Tensor):
                    value.zero_()

    def schedule(self, samples: float) -> float:
        """Sets the learning rates for a step whose middle lies at `samples`; returns the dense one."""
        for group, schedule, rate in self._groups:
            group["lr"] = rate * schedule.factor(samples, self._total_samples)
        return self._dense_config.learning_rate * self._dense_config.factor(samples, self._total_samples)


def learning_rates(
    config: SparseOptimizerConfig, tables: tuple[ShardedTableConfig, ...], fused: KeyedOptimizer
) -> list[float]:
    """The full rate of each group of tables on this rank. Torchrec groups only what is trained alike."""
    table_of = {table_key(table.name): table for table in tables}
    name_of = {parameter: name for name, parameter in fused.params.items()}
    rates = []
    for group in fused.param_groups:
        key = name_of[group["params"][0]].split(".")[-2]
        rates.append(config.of(table_of[key]).learning_rate)
    return rates
