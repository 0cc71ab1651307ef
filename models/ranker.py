"""The whole network: features → head → one logit per task → losses.

Shapes: B rows, F input width, H outputs of the head, T tasks.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from data.batch import Batch
from models.balancers.balancer import Balancer
from models.embedding import FeatureLayer
from models.heads.base import Head
from models.losses import loss_sums
from models.products import factors_of, head_tasks, task_logits
from models.tasks import TaskConfig


class StepOutput(NamedTuple):
    """What a step leaves behind, detached, for metrics."""

    logits_BT: torch.Tensor
    """A binary task's log odds; a regression task's prediction."""
    labels_BT: torch.Tensor
    weights_BT: torch.Tensor
    """0 where the label is missing or the row is padding."""
    loss_T: torch.Tensor
    """Weighted sum of losses over the rows."""
    row_ids_B: torch.Tensor
    """Of the rows in their dataset; -1 for padding."""
    penalties: Mapping[str, torch.Tensor] = {}
    """What the head has added to the loss of this rank's rows, by name."""


class Ranker(nn.Module):
    """A multi-task ranking model.

    A task's logit is first_logit + logit_scale · (the head's output), so that a new model predicts the label's mean.
    That of a product follows from those of its factors (`models.products`).

    The trained loss is Σ_tasks loss_weight · (Σ_rows loss) / B. Dividing by all rows, labelled or not, gives every
    labelled row the same say wherever it falls, so the mean over ranks is the loss of the global batch on any number of
    them. A balancer weighs the tasks anew at each step (`models.balancers`). In training a head may add penalties.
    """

    is_binary_T: torch.Tensor
    loss_weight_T: torch.Tensor
    first_logit_H: torch.Tensor
    logit_scale_H: torch.Tensor

    def __init__(
        self,
        features: FeatureLayer,
        head: Head,
        tasks: tuple[TaskConfig, ...],
        bf16: bool = False,
        balancer: Balancer | None = None,
    ) -> None:
        """`balancer`: weighs the losses, or what their gradients give to the features; None: they are added up."""
        super().__init__()
        self.features = features
        self.head = head
        self.balancer = balancer
        self.bf16 = bf16
        self.factors = factors_of(tasks)
        with_output = head_tasks(tasks)
        constants = {
            "is_binary_T": [task.binary for task in tasks],
            "loss_weight_T": [task.loss_weight for task in tasks],
            "first_logit_H": [task.first_logit for task in with_output],
            "logit_scale_H": [task.logit_scale for task in with_output],
        }

        for name, values in constants.items():  # of the config, so not part of a checkpoint
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, StepOutput]:
        """(loss of this rank's rows, output)."""
        logits_BH, logits_BT = self.logits(self.features(batch.sparse, batch.dense_BD))
        weights_BT = batch.weights_B[:, None] * batch.label_weights_BT
        loss_T = loss_sums(logits_BT, batch.labels_BT, weights_BT, self.is_binary_T)
        num_rows = batch.weights_B.shape[0]
        losses_T = loss_T * self.loss_weight_T / num_rows
        loss = losses_T.sum() if self.balancer is None else self.balancer(losses_T, batch.labels_BT, weights_BT)

        penalties = self.head.penalties(logits_BH, batch.weights_B) if self.training else {}
        for penalty in penalties.values():
            loss = loss + penalty

        kept = {name: penalty.detach() for name, penalty in penalties.items()}
        output = StepOutput(logits_BT.detach(), batch.labels_BT, weights_BT, loss_T.detach(), batch.row_ids_B, kept)
        return loss, output

    def logits(self, features_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits_BH of the head's outputs, logits_BT of the tasks)."""
        if self.balancer is not None and self.balancer.at == "features":
            features_BF = self.balancer.gate(features_BF)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.bf16):
            logits_BH = self.head(features_BF)

        logits_BH = (self.first_logit_H + self.logit_scale_H * logits_BH).float()
        return logits_BH, task_logits(logits_BH, self.factors)
