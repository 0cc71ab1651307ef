"""What is logged of how the tasks are balanced: weights, lengths of their gradients, and whether these conflict."""

import math
from collections.abc import Sequence
from itertools import combinations

import torch

from models.balancers.balancer import Balancer
from models.balancers.cosine_sums import CosineMeans
from models.balancers.gram import norms, pair_cosines
from trainer.logging.heat_maps import HeatMap
from trainer.run.matrices import Conflicts
from trainer.run.records import COSINE, LENGTH, WEIGHT


def balance_figures(balancer: Balancer, tasks: Sequence[str]) -> dict[str, float]:
    """Of the newest step in which weights were renewed: WEIGHT/TASK, LENGTH/TASK, COSINE/TASK/OTHER.

    A cosine with a gradient of 0 is 0. Gradients are those of the whole batch, with regard to the shared
    representation.
    """
    figures = {f"{WEIGHT}/{task}": weight for task, weight in zip(tasks, balancer.kept_T.tolist(), strict=True)}
    if balancer.seen is None or balancer.seen.gram_TT is None:
        return figures

    gram_TT = balancer.seen.gram_TT.cpu()
    norm_T = norms(gram_TT).tolist()
    figures |= {f"{LENGTH}/{task}": norm for task, norm in zip(tasks, norm_T, strict=True)}
    cosines = pair_cosines(gram_TT)[0].tolist()
    for (one, first), (other, second) in combinations(enumerate(tasks), 2):
        figures[f"{COSINE}/{first}/{second}"] = cosines[one][other]
    return figures


def conflicts(means: CosineMeans, tasks: Sequence[str], samples: int) -> Conflicts:
    """The record of the steps before `samples`."""
    return Conflicts(
        samples=samples,
        since=means.since,
        steps=means.steps,
        tasks=list(tasks),
        cosines=_pairs(means.cosine_TT),
        below_zero=_pairs(means.below_zero_TT),
    )


def _pairs(values_TT: torch.Tensor) -> list[list[float | None]]:
    """None where there is nothing to say, and on the diagonal."""
    rows = []
    for task, values in enumerate(values_TT.tolist()):
        rows.append([None if other == task or math.isnan(value) else value for other, value in enumerate(values)])
    return rows


def cosine_map(record: Conflicts) -> HeatMap:
    """The heat map of a record."""
    title = f"mean cosine of gradients, {record.since:,} to {record.samples:,} samples"
    return HeatMap(title, record.tasks, record.tasks, record.cosines)
