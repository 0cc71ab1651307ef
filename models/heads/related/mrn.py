"""MRN, multilinear relationship network (Long, Cao, Wang and Yu, NeurIPS 2017): a prior relates the towers' weights.

    logits as shared_bottom has them; the layers of the towers are the task-specific ones
    W        = the weights of a layer of all towers, T × O × I, without biases
    vec(W)   ~ N(0, Σ_T ⊗ Σ_O ⊗ Σ_I)                                        of tasks, of outputs, of inputs
    penalty  = prior · Σ_layers ½ vec(W)ᵀ (Σ_T ⊗ Σ_O ⊗ Σ_I)⁻¹ vec(W)

The covariances begin as the identity, so that the penalty is the L2 norm's. After every `prior_samples` they are
estimated anew from the weights, one after the other (flip-flop), each with the newest of the others:

    S_k = W_(k) (⊗_{j≠k} Σ_j)⁻¹ W_(k)ᵀ                                      W_(k): row i is slice i along mode k
    Σ_k = (d S_k / tr S_k + ε I) / (1 + ε)                                   d: size of mode k;  ε = 0.01

In the paper Σ_k is d S_k / (the size of W), plus ε I. The trace is divided out here, since only the product of the
three has a scale, and the penalty would hold small weights the stronger, the smaller they are. (The authors' code
divides by a trace too.) A Σ_k with fewer numbers in W_(k)'s rows than rows is singular, whatever the tasks have in
common, and the others estimated with it say nothing: it stays the identity.

Shapes: B rows, F features, T tasks, O outputs of a layer, I inputs.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from data.settings import Count
from models.heads.base import FusionNames, Head, HeadConfig, Shares
from models.heads.shared_bottom import TrunkHead
from models.layers import GroupedLinear

EPSILON = 0.01
TASKS = 0
"""The mode."""


class MRNConfig(HeadConfig):
    """One trunk, one tower for each task, whose weights have a common prior."""

    head: Literal["mrn"] = "mrn"
    prior: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    """Weight of the penalty; 0: none. As long as covariances are the identity it is weight decay of the towers."""
    prior_samples: Count = Field(default=100_000, gt=0)
    """Samples after which the covariances are estimated anew."""
    covariances: Literal["all", "tasks"] = "all"
    """Which are estimated: of tasks, outputs and inputs, or of tasks alone."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head."""
        return MRN(self, num_features, len(tasks))


class MRN(TrunkHead):
    """The head."""

    period: torch.Tensor
    """Number of `prior_samples` that had passed when the covariances were estimated last."""

    def __init__(self, config: MRNConfig, num_features: int, num_tasks: int) -> None:
        super().__init__(config, num_features, num_tasks, num_trunks=1)
        self.config = config
        self._layers: list[GroupedLinear] = []
        self._priors: list[TensorNormal] = []
        for layer in (*self.towers.hidden.layers, self.towers.logit):
            assert isinstance(layer, GroupedLinear)
            self._layers.append(layer)
            self._priors.append(TensorNormal(num_tasks, layer.outputs, layer.inputs, config.covariances == "all"))

        self.priors = nn.ModuleList(self._priors)
        self.register_buffer("period", torch.zeros((), dtype=torch.int64))
        self._known_period: int | None = None
        """The same, on the host: reading a buffer of a GPU in each step would stall it."""

    def begin(self, samples: int, seed: int) -> None:  # noqa: ARG002
        """Estimates the covariances where they are due."""
        if self._known_period is None:  # as the checkpoint has it
            self._known_period = int(self.period)

        period = samples // self.config.prior_samples
        if period > self._known_period:
            for layer, prior in zip(self._layers, self._priors, strict=True):
                prior.estimate(layer.weight)
            self._known_period = period
            self.period.fill_(period)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        for prior in self._priors:
            prior.show(features_BF)
        return super().logits(features_BF)

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """`prior`."""
        if self.config.prior == 0:
            return {}
        total = sum(prior(layer.weight) for layer, prior in zip(self._layers, self._priors, strict=True))
        return {"prior": self.config.prior * total}

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """The correlations of the tasks, layer by layer of the towers."""
        return [FusionNames(list(tasks), list(tasks)) for _ in self._priors]


class TensorNormal(nn.Module):
    """The prior of a layer. Its inverse covariances are kept in float64, in checkpoints too."""

    correlation_TT: torch.Tensor
    """Σ_T, divided by the deviations."""
    task_precision_TT: torch.Tensor
    output_precision_OO: torch.Tensor
    input_precision_II: torch.Tensor

    def __init__(self, num_tasks: int, outputs: int, inputs: int, estimates_all: bool) -> None:
        super().__init__()
        sizes = (num_tasks, outputs, inputs)
        num_weights = num_tasks * outputs * inputs
        self.modes = [
            mode
            for mode, size in enumerate(sizes)
            if (estimates_all or mode == TASKS) and 1 < size <= num_weights // size
        ]
        """Whose covariances are estimated, in order; the others are the identity."""
        self.shares = Shares()
        self.register_buffer("correlation_TT", torch.eye(num_tasks, dtype=torch.float64))
        self.register_buffer("task_precision_TT", torch.eye(num_tasks, dtype=torch.float64))
        self.register_buffer("output_precision_OO", torch.eye(outputs, dtype=torch.float64))
        self.register_buffer("input_precision_II", torch.eye(inputs, dtype=torch.float64))

    def forward(self, weight_TOI: torch.Tensor) -> torch.Tensor:
        """½ vec(W)ᵀ Σ⁻¹ vec(W). Kept for backward: its gradient, Σ⁻¹ W."""
        fixed_TOI = weight_TOI.detach()
        gradient_TOI = fixed_TOI
        for mode in self.modes:
            gradient_TOI = _product(self.precisions[mode].type_as(fixed_TOI), gradient_TOI, mode)
        return ((weight_TOI - fixed_TOI / 2) * gradient_TOI).sum()

    @property
    def precisions(self) -> tuple[torch.Tensor, ...]:
        """By mode."""
        return self.task_precision_TT, self.output_precision_OO, self.input_precision_II

    @torch.no_grad()
    def estimate(self, weight_TOI: torch.Tensor) -> None:
        """One round of flip-flop, in float64: a function of the weights and of the estimates before, on any rank."""
        wide_TOI = weight_TOI.double()
        for mode in self.modes:
            whitened_TOI = wide_TOI
            for other in self.modes:
                if other != mode:
                    whitened_TOI = _product(self.precisions[other].double(), whitened_TOI, other)

            covariance = _unit_covariance(_unfolded(whitened_TOI, mode) @ _unfolded(wide_TOI, mode).t())
            # `cholesky` would wait for the device to tell whether it failed. It cannot: ε is on the diagonal, and steps
            # that would make weights not finite are never made.
            root, _ = torch.linalg.cholesky_ex(covariance)
            precision = torch.cholesky_inverse(root)
            self.precisions[mode].copy_((precision + precision.t()) / 2)
            if mode == TASKS:
                deviation_T = covariance.diagonal().sqrt()
                self.correlation_TT.copy_(covariance / deviation_T / deviation_T[:, None])

    def show(self, features_BF: torch.Tensor) -> None:
        """The correlations of the tasks, for each row, where they can be watched."""
        self.shares(self.correlation_TT.type_as(features_BF).expand(features_BF.shape[0], -1, -1))


def _product(matrix: torch.Tensor, tensor: torch.Tensor, mode: int) -> torch.Tensor:
    """The matrix times every vector along a mode."""
    return torch.tensordot(matrix, tensor, dims=([1], [mode])).movedim(0, mode)


def _unfolded(tensor: torch.Tensor, mode: int) -> torch.Tensor:
    """Row i is slice i along the mode."""
    return tensor.movedim(mode, 0).flatten(1)


def _unit_covariance(sums: torch.Tensor) -> torch.Tensor:
    """Σ of S, with a mean variance of 1; of weights that are all 0 the identity."""
    identity = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
    variance = sums.diagonal().mean()
    scaled = torch.where(variance > 0, sums / variance, identity)
    return (scaled + EPSILON * identity) / (1 + EPSILON)
