"""Logs that have kept every positive of a task, but only a share of its negatives.

    log odds in the whole log = log odds in the sampled log + log share      (He et al., ADKDD 2014, section 6.3)
    each negative of the log stands for 1 / share negatives

Training is not touched: it learns the log odds of the sampled log.

Shapes: B rows, T tasks.
"""

import math

import torch

from models.ranker import StepOutput
from models.tasks import TaskConfig


class NegativeSampling:
    """What the sampling of each task's negatives has changed, and how to undo it."""

    def __init__(self, tasks: tuple[TaskConfig, ...], device: torch.device) -> None:
        self._is_sampled = any(task.negative_rate or task.test_negative_rate for task in tasks)
        shifts = [math.log(task.negative_rate or 1.0) for task in tasks]
        self._shift_T = torch.tensor(shifts, device=device)
        self._negative_weight_T = torch.tensor([task.negative_weight for task in tasks], device=device)

    def undo(self, step: StepOutput) -> StepOutput:
        """The step as on the whole log: log odds, and weights by which rows count in metrics."""
        if not self._is_sampled:
            return step
        logits_BT = step.logits_BT + self._shift_T
        weights_BT = step.weights_BT * torch.where(step.labels_BT > 0.5, 1.0, self._negative_weight_T)
        return step._replace(logits_BT=logits_BT, weights_BT=weights_BT)
