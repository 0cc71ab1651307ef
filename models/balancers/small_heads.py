"""Small heads beside the towers: what is shared must serve every task simply too.

Wang et al., WWW 2022, "Can Small Heads Help? Understanding and Improving Multi-Task Generalization": each task has, in
training alone, a second head of few parameters on the shared representation, with the task's own label.

    y ──► towers ──► L_t          of what is predicted
      └─► small heads ──► S_t     trained loss = Σ_t L_t + weight · Σ_t S_t

S_t has the label, the row weights and the `weight` of its task, and divides by all rows as L_t does; it is 0 where a
batch has no label. That of a product is of one small head with the product's own label.

Elsewhere: the authors' code for MovieLens has a linear head and a weight of 1; that for images weights of 0.1 to 0.3.
It can average stretches of the shared units before the head, which is left out here.

Shapes: B rows of this rank, F width of the shared representation, T tasks.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field

from models.balancers.method import Method
from models.balancers.settings import BalanceConfig, Tasks
from models.layers import Towers
from models.losses import loss_sums


class SmallHeadsConfig(BalanceConfig):
    """Constant weights, and a small head for each task that is trained beside its tower and not used otherwise (Wang et
    al., WWW 2022)."""

    method: Literal["small_heads"] = "small_heads"
    unused: ClassVar[tuple[str, ...]] = ("every",)
    weight: float = Field(default=1.0, ge=0)
    """Factor of the small heads' losses. 1 is the authors' choice for MovieLens, 0.1 to 0.3 for images."""
    hidden: int = Field(default=0, ge=0, le=1 << 16)
    """Units of a small head's one hidden layer: few beside `model.tower`. 0: it is linear, as for MovieLens."""

    def build(self, tasks: Tasks) -> Method:
        """The method."""
        return SmallHeads(tasks, self.weight, self.hidden)


class SmallHeads(Method):
    """The heads, trained by the dense optimizer; the losses' weights are constant."""

    is_binary_T: torch.Tensor
    loss_weight_T: torch.Tensor
    first_logit_T: torch.Tensor
    logit_scale_T: torch.Tensor

    def __init__(self, tasks: Tasks, weight: float, hidden: int) -> None:
        super().__init__()
        self._weight = weight
        self.heads = Towers(len(tasks.configs), tasks.width, [hidden] if hidden else [], "relu", dropout=0)
        constants = {
            "is_binary_T": tasks.is_binary,
            "loss_weight_T": [task.loss_weight for task in tasks.configs],
            "first_logit_T": [task.first_logit for task in tasks.configs],
            "logit_scale_T": [task.logit_scale for task in tasks.configs],
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def extra_loss(self, parts: list[torch.Tensor], labels_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
        """weight · Σ S_t of this rank's rows."""
        outputs_BT = self.heads(torch.cat(parts).to(self.heads.logit.weight))
        logits_BT = self.first_logit_T + self.logit_scale_T * outputs_BT
        losses_T = loss_sums(logits_BT, labels_BT, weights_BT, self.is_binary_T) / len(weights_BT)
        return self._weight * (losses_T * self.loss_weight_T).sum()
