"""One optimizer for the dense part, one fused into the backward pass of the tables, one schedule for both.

The fused optimizer updates the rows that a batch touched while their gradients are computed, so a table's gradient
never exists as a whole.
"""

import math
from typing import Any, Literal

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from pydantic import Field
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from data.settings import Count, Settings

Decay = Literal["none", "linear", "cosine"]


class Schedule(Settings):
    """Learning rate over samples: a linear rise, then a decay that ends with the run."""

    warmup_samples: Count = Field(default=0, ge=0)
    """Samples over which the rate rises from 0."""
    decay: Decay = "none"
    """How the rate falls between the warm-up and train.samples."""
    decay_to: float = Field(default=0.0, ge=0, le=1)
    """Share of the rate that is left at the end."""

    def factor(self, samples: float, total: int) -> float:
        """Share of the full rate after `samples` of `total` samples."""
        if samples < self.warmup_samples:
            return samples / self.warmup_samples
        if self.decay == "none":
            return 1.0

        decaying = max(total - self.warmup_samples, 1)
        done = min((samples - self.warmup_samples) / decaying, 1.0)
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.decay_to + (1 - self.decay_to) * left


class DenseOptimizerConfig(Schedule):
    """Optimizer of everything but the tables."""

    name: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    learning_rate: float = Field(default=2e-3, gt=0)
    decay: Decay = "linear"
    """How the rate falls between the warm-up and train.samples; without, NE at the end is 1 to 2 % worse."""
    weight_decay: float = Field(default=0.0, ge=0)
    """adamw: decoupled; the others: added to the gradient."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the dense gradient; a larger one is scaled down to it."""


class SparseOptimizerConfig(Schedule):
    """Fused optimizer of the tables."""

    name: Literal["rowwise_adagrad", "adagrad", "adam", "sgd"] = "rowwise_adagrad"
    """rowwise_adagrad keeps one number of state per row, adagrad one and adam two per weight, sgd none."""
    learning_rate: float = Field(default=0.2, gt=0)
    eps: float = Field(default=0.05, gt=0)
    """Added to the root of a row's accumulated squared gradients, in units of the gradient of one sample's loss: the
    trained loss is a mean over the batch, so the optimizer gets eps / data.global_batch_size. If it is small, the
    first step on a fresh row has full size whatever its gradient, and rounding drives runs on other ranks apart."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Added to the gradient of the rows that a batch touches."""


class OptimizerConfig(Settings):
    """Both optimizers."""

    dense: DenseOptimizerConfig = DenseOptimizerConfig()
    sparse: SparseOptimizerConfig = SparseOptimizerConfig()


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
    """The table optimizer as fbgemm's embedding kernels take it."""
    return {
        "optimizer": _FUSED[config.name],
        "learning_rate": config.learning_rate,
        "eps": config.eps / global_batch_size,
        "weight_decay": config.weight_decay,
    }


def build_dense_optimizer(config: DenseOptimizerConfig, model: DistributedModelParallel) -> KeyedOptimizer:
    """Optimizer of the parameters that no fused optimizer owns."""
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    parameters = dict(in_backward_optimizer_filter(model.named_parameters()))
    optimizer = KeyedOptimizerWrapper(parameters, lambda values: _DENSE[config.name](values, **options))
    if config.clip_norm is None:
        return optimizer
    return GradientClippingOptimizer(optimizer, GradientClipping.NORM, max_gradient=config.clip_norm)


class Optimizer:
    """Both optimizers under their schedules; `combined` is what the pipeline steps and a checkpoint keeps."""

    def __init__(self, config: OptimizerConfig, model: DistributedModelParallel, total_samples: int) -> None:
        dense = build_dense_optimizer(config.dense, model)
        self._dense = dense
        self.combined = CombinedOptimizer([("sparse", model.fused_optimizer), ("dense", dense)])
        self._parts: list[tuple[DenseOptimizerConfig | SparseOptimizerConfig, Any]] = [
            (config.sparse, model.fused_optimizer),
            (config.dense, dense),
        ]
        self._total_samples = total_samples
        self._allocate_state()

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
        rate = 0.0
        for config, optimizer in self._parts:
            rate = config.learning_rate * config.factor(samples, self._total_samples)
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rate
