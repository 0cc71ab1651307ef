"""mrn, with explicit Kronecker products.

Shapes: T tasks, O outputs of a layer, I inputs.
"""

import torch
from torch import nn

from benchmarks.loops.networks import TrunkLoop
from models.heads.related.mrn import MRNConfig

EPSILON = 0.01


class PriorLoop(nn.Module):
    """Inverse covariances of a layer."""

    task_precision_TT: torch.Tensor
    output_precision_OO: torch.Tensor
    input_precision_II: torch.Tensor

    def __init__(self, num_tasks: int, outputs: int, inputs: int) -> None:
        super().__init__()
        self.register_buffer("task_precision_TT", torch.eye(num_tasks), persistent=False)
        self.register_buffer("output_precision_OO", torch.eye(outputs), persistent=False)
        self.register_buffer("input_precision_II", torch.eye(inputs), persistent=False)

    def forward(self, weights: list[torch.Tensor]) -> torch.Tensor:
        """½ vec(W)ᵀ Σ⁻¹ vec(W), of the weights of each task."""
        of_layer = torch.kron(self.output_precision_OO, self.input_precision_II)
        precision = torch.kron(self.task_precision_TT, of_layer)
        vector = torch.cat([weight_OI.flatten() for weight_OI in weights])
        return vector @ precision @ vector / 2


class MRNLoop(TrunkLoop):
    """mrn: a vector of all weights of a layer, and its covariance."""

    def __init__(self, config: MRNConfig, num_features: int, num_tasks: int) -> None:
        super().__init__(config, num_features, num_tasks, num_trunks=1)
        self.prior = config.prior
        self.tasks = num_tasks
        inputs = (config.end_to_end[-1], *config.tower)
        outputs = (*config.tower, 1)
        self.priors = nn.ModuleList(
            PriorLoop(num_tasks, width_out, width_in) for width_in, width_out in zip(inputs, outputs, strict=True)
        )

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Of all layers of the towers."""
        total = torch.zeros((), dtype=logits_BT.dtype)
        for index, prior in enumerate(self.priors):
            total = total + prior([self.towers.get_parameter(f"{task}.{index}.weight") for task in range(self.tasks)])
        return {"prior": self.prior * total}


def flip_flop(weight_TOI: torch.Tensor, covariances: list[torch.Tensor], modes: list[int]) -> list[torch.Tensor]:
    """The covariances after a round of estimates, of these modes in order."""
    found = list(covariances)
    for mode in modes:
        first, second = (number for number in range(3) if number != mode)
        of_others = torch.kron(found[first], found[second])
        slices = [torch.select(weight_TOI, mode, number).flatten() for number in range(weight_TOI.shape[mode])]
        unfolded = torch.stack(slices)
        sums = unfolded @ torch.linalg.inv(of_others) @ unfolded.t()
        scaled = len(sums) * sums / torch.trace(sums)
        found[mode] = (scaled + EPSILON * torch.eye(len(sums), dtype=sums.dtype)) / (1 + EPSILON)
    return found
