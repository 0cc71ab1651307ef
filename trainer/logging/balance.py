"""What is logged of how the tasks are balanced: weights, lengths of their gradients, and whether these conflict."""

from collections.abc import Sequence
from itertools import combinations

from models.balancers.balancer import Balancer
from models.balancers.gram import norms

WEIGHT = "balance_weight"
LENGTH = "gradient_norm"
COSINE = "gradient_cosine"


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
    for (one, first), (other, second) in combinations(enumerate(tasks), 2):
        both = norm_T[one] * norm_T[other]
        figures[f"{COSINE}/{first}/{second}"] = float(gram_TT[one, other]) / both if both > 0 else 0.0
    return figures
