"""Tasks whose probability is the product of others', as in ESMM (Ma et al., SIGIR 2018, equation 3).

    p(click and buy) = p(click) · p(buy | click)      trained on every row, though buys are known after clicks alone

Shapes: B rows, H outputs of the head, T tasks.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import logsigmoid

from models.tasks import TaskConfig

Factors = tuple[tuple[int, ...], ...]
"""For each task the outputs of the head whose probabilities are multiplied; one for a task that is none."""


def factors_of(tasks: Sequence[TaskConfig]) -> Factors:
    """The head has an output for each task that is no product, in the order of the tasks."""
    outputs = {task.name: index for index, task in enumerate(head_tasks(tasks))}
    return tuple(tuple(outputs[name] for name in (task.of or (task.name,))) for task in tasks)


def head_tasks(tasks: Sequence[TaskConfig]) -> list[TaskConfig]:
    """The tasks for which the head has an output: those that are no products."""
    return [task for task in tasks if not task.of]


def task_logits(logits_BH: torch.Tensor, factors: Factors) -> torch.Tensor:
    """logits_BT."""
    if all(len(outputs) == 1 for outputs in factors):
        return logits_BH
    logits_HB = logits_BH.unbind(dim=1)
    columns = []
    for first, *others in factors:
        logit_B = logits_HB[first]
        for output in others:
            logit_B = logit_of_both(logit_B, logits_HB[output])
        columns.append(logit_B)
    return torch.stack(columns, dim=1)


def logit_of_both(first_B: torch.Tensor, second_B: torch.Tensor) -> torch.Tensor:
    """The log odds of p q, from those of p and q: log p q - log(1 - p + p (1 - q)), exact where p q is near 0 or 1."""
    log_p_B = logsigmoid(first_B)
    log_neither_B = torch.logaddexp(logsigmoid(-first_B), log_p_B + logsigmoid(-second_B))
    return log_p_B + logsigmoid(second_B) - log_neither_B
