"""Metrics of a window: of the samples trained since the last record of train.jsonl.

They are those of predictions made before each update, and cover the ranks together.

Shapes: B rows of a step, T tasks. The leading 4 are the sums of loss, weight, prediction and label, weighted.
"""

import torch

from models.losses import predictions
from models.ranker import StepOutput
from models.tasks import TaskConfig
from trainer.distributed.world import World
from trainer.evaluation.metrics import normalized_entropy


class TrainingWindow:
    """Sums over the window. They stay on the device: adding a step does not wait for it."""

    def __init__(self, tasks: tuple[TaskConfig, ...], world: World) -> None:
        self._tasks = tasks
        self._world = world
        device = world.device
        self._weight_T = torch.tensor([task.loss_weight for task in tasks], dtype=torch.float64)
        self._is_binary_T = torch.tensor([task.binary for task in tasks], device=device)
        self._sums_4T = torch.zeros(4, len(tasks), dtype=torch.float64, device=device)
        """Of this rank."""

    def add(self, step: StepOutput) -> None:
        """Adds a step that was trained. Asynchronous."""
        predictions_BT = predictions(step.logits_BT, self._is_binary_T)
        weights_BT = step.weights_BT
        self._sums_4T[0] += step.loss_T
        self._sums_4T[1] += weights_BT.sum(dim=0)
        self._sums_4T[2] += (predictions_BT * weights_BT).sum(dim=0)
        self._sums_4T[3] += (step.labels_BT * weights_BT).sum(dim=0)

    def close(self) -> dict[str, float | None]:
        """The metrics of the window over all ranks; the next window begins. Collective: call on all ranks."""
        # The only place at which the host waits for the device: the sums are copied to it.
        sums_4T = self._world.sum(self._sums_4T).cpu().clone()
        self._sums_4T.zero_()

        metrics = {"loss": total_loss(sums_4T, self._weight_T)}
        for task, sums in zip(self._tasks, sums_4T.t().tolist(), strict=True):
            metrics |= window_metrics(task, sums)

        return metrics

    def sums_of_all_ranks(self) -> list[list[float]]:
        """The sums so far, for a checkpoint. Collective: call on all ranks."""
        # Cloned, since the sum over ranks is made in place, and this rank goes on with its own sums.
        return self._world.sum(self._sums_4T.clone()).tolist()

    def restore(self, sums: list[list[float]]) -> None:
        """Goes on from the sums in a checkpoint: the window covers what was trained before the resume too."""
        # They are of all ranks together, so that one rank must hold them.
        if self._world.is_rank_zero:
            device = self._sums_4T.device
            self._sums_4T += torch.tensor(sums, dtype=torch.float64, device=device)


def total_loss(sums_4T: torch.Tensor, weight_T: torch.Tensor) -> float | None:
    """Σ over tasks of the task's `loss_weight` x the mean loss of the rows that count, weighted by `data.weight`.

    A constant factor in the rows' weights does not change it. None if no row has counted.
    """
    loss_T = sums_4T[0]
    rows_T = sums_4T[1]
    counts_T = rows_T > 0
    if not counts_T.any():
        return None

    mean_T = weight_T * loss_T / rows_T
    return float(mean_T[counts_T].sum())


def window_metrics(task: TaskConfig, sums: list[float]) -> dict[str, float | None]:
    """A task's metrics from its sums of loss, weight, prediction and label; None if one is not defined."""
    loss, weight, prediction, label = sums
    mean_loss = loss / weight if weight else None
    label_mean = label / weight if weight else None

    metrics = {f"loss/{task.name}": mean_loss, f"label_mean/{task.name}": label_mean}
    if not task.binary:
        return metrics | {f"mse/{task.name}": mean_loss}

    metrics[f"calibration/{task.name}"] = prediction / label if label else None
    metrics[f"ne/{task.name}"] = None
    if mean_loss is not None and label_mean is not None:
        metrics[f"ne/{task.name}"] = normalized_entropy(mean_loss, label_mean)

    return metrics
