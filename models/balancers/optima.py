"""Weights that solve a small optimisation problem over the tasks' gradients: MGDA, CAGrad, Nash-MTL.

All use G[s, t] = ⟨g_s, g_t⟩ alone. They run on the CPU in numpy: the matrices are tiny and the steps many.

Shapes: T tasks.
"""

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.balancers.gram import combined_norm, cosines, norms, of_active

Array = NDArray[np.float64]
Normalizer = Literal["none", "l2", "loss", "loss+"]

FRANK_WOLFE_STEPS = 250
NEWTON_STEPS = 40
NEWTON_TOLERANCE = 1e-10


def _array(values: torch.Tensor) -> Array:
    return values.double().numpy(force=True)


def mgda(gram_TT: torch.Tensor, losses_T: torch.Tensor, normalizer: Normalizer = "none") -> torch.Tensor:
    """Weights of the shortest convex combination of the gradients: Sener and Koltun, NeurIPS 2018, algorithm 2.

        min ‖Σ α_t g_t / s_t‖²   with α ≥ 0, Σ α = 1
        s_t = 1 (none), ‖g_t‖ (l2), L_t (loss), L_t ‖g_t‖ (loss+)

    Frank-Wolfe from α = 1 / T, fully corrective (Wolfe, Mathematical Programming 1976): after each step the point is
    the shortest of all that the gradients in use span. So it ends at the minimum itself, after about T steps, and a
    rounding cannot change where. As in the authors' training loop, α is then used for the gradients without s_t. Where
    gradients are 0 they share all the weight: the shared gradient is 0. alpha_T: float64.

    Elsewhere: plain Frank-Wolfe, 250 steps or until one is below 1e-5, is exact for two tasks and otherwise some tenths
    of a percent too long; where it stops depends on roundings. The authors' code starts from the best pair of tasks,
    keeps a step within 0.001 and 0.999 of it, and trains with projected gradient descent; the Nash-MTL authors' copy
    multiplies α by T.
    """
    scales_T = _scales(gram_TT, losses_T, normalizer)
    alpha = _shortest(_array(gram_TT / torch.outer(scales_T, scales_T)))
    return torch.from_numpy(alpha).to(gram_TT.device)


def _scales(gram_TT: torch.Tensor, losses_T: torch.Tensor, normalizer: Normalizer) -> torch.Tensor:
    gram_TT, losses_T = gram_TT.double(), losses_T.double()
    ones_T = torch.ones_like(losses_T)
    factors = {
        "none": ones_T,
        "l2": norms(gram_TT),
        "loss": losses_T,
        "loss+": losses_T * norms(gram_TT),
    }
    scales_T = factors[normalizer]
    # A loss or gradient of 0 has nothing to scale.
    return torch.where(scales_T > 0, scales_T, ones_T)


def _shortest(gram: Array) -> Array:
    is_zero = gram.diagonal() <= 0
    if is_zero.any():
        return is_zero / is_zero.sum()

    alpha = np.full(len(gram), 1 / len(gram))
    in_use = np.full(len(gram), True)
    for _ in range(FRANK_WOLFE_STEPS):
        target = np.zeros_like(alpha)
        target[in_use] = _stationary(gram[np.ix_(in_use, in_use)])
        if (target < 0).any():
            alpha, first = _towards(alpha, target)
            in_use[first] = False
            continue

        alpha = target
        inner = gram @ alpha
        best = inner.argmin()
        if in_use[best] or alpha @ inner - inner[best] <= 1e-12 * gram[best, best]:
            break
        in_use[best] = True
    return alpha


def _stationary(gram: Array) -> Array:
    """The shortest Σ α_t g_t with Σ α = 1, of any signs: G α is the same for all tasks. Solved for α_t ‖g_t‖."""
    lengths = np.sqrt(gram.diagonal())
    system = np.zeros((len(gram) + 1, len(gram) + 1))
    system[:-1, :-1] = gram / np.outer(lengths, lengths)
    system[:-1, -1] = system[-1, :-1] = lengths.min() / lengths
    right = np.zeros(len(system))
    right[-1] = lengths.min()

    # Where gradients are linearly dependent, α is not unique: the least squares take the one nearest to 0.
    solution: Array = np.linalg.lstsq(system, right)[0][:-1] / lengths
    return solution / solution.sum()


def _towards(alpha: Array, target: Array) -> tuple[Array, int]:
    """As far from `alpha` to `target` as no weight is below 0, and whose weight is then 0."""
    falling = np.flatnonzero(target < 0)
    steps = alpha[falling] / (alpha - target)[falling]
    first = int(falling[steps.argmin()])
    reached = alpha + steps.min() * (target - alpha)
    reached[first] = 0
    return reached, first


def cagrad(gram_TT: torch.Tensor, c: float = 0.4) -> torch.Tensor:
    """The direction near the mean gradient that helps the worst-off task most: Liu et al., NeurIPS 2021, algorithm 1.

        g₀ = mean_t g_t,   g_w = Σ w_t g_t
        w = argmin ⟨g_w, g₀⟩ + c ‖g₀‖ ‖g_w‖   with w ≥ 0, Σ w = 1
        shared gradient = T / (1 + c²) · (g₀ + c ‖g₀‖ g_w / ‖g_w‖)

    T / (1 + c²) is the authors' scale for image tasks (rescale = 1, then "to match the sum loss"): c = 0 is the plain
    sum of the gradients. Where g_w is 0 the gradients can be joined to nothing; g₀ stays alone. c in [0, 1).
    alpha_T: float64.

    The dual is solved to convergence by SLSQP. Elsewhere: the authors' reinforcement learning code takes the best of 20
    steps of SGD on the logits of w, without the factor T; their code adds 1e-8 to ‖g_w‖² whatever the scale of the
    gradients; TorchJD has no factor T / (1 + c²) and returns 0 where g_w is 0.
    """
    gram = _array(gram_TT)
    num_tasks = len(gram)
    total = gram.trace()
    if total <= 0:
        return torch.ones_like(gram_TT[0], dtype=torch.float64)

    gram = gram / total
    radius = c * math.sqrt(max(gram.mean(), 0))
    worst = _worst_mix(gram, radius)

    alpha = np.full(num_tasks, 1 / num_tasks)
    length = math.sqrt(max(worst @ gram @ worst, 0))
    if length > 1e-4 * (worst @ np.sqrt(gram.diagonal().clip(0))):
        alpha += radius / length * worst
    return torch.from_numpy(alpha * num_tasks / (1 + c**2)).to(gram_TT.device)


def _worst_mix(gram: Array, radius: float) -> Array:
    """w of the dual problem. The trace of G is 1."""
    mean_inner = gram.mean(axis=1)

    def objective(w: Array) -> tuple[float, Array]:
        gram_w = gram @ w
        # Keeps the slope finite where g_w is 0; far below any length that is used.
        length = math.sqrt(max(float(w @ gram_w), 0) + 1e-20)
        return float(w @ mean_inner) + radius * length, mean_inner + radius * gram_w / length

    start = np.full(len(gram), 1 / len(gram))
    on_simplex = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    options = {"ftol": 1e-16, "maxiter": 200}
    bounds = [(0, 1)] * len(gram)
    found = minimize(objective, start, jac=True, method="SLSQP", bounds=bounds, constraints=on_simplex, options=options)

    w: Array = found.x.clip(0)
    return w / w.sum()


def nash_mtl(
    gram_TT: torch.Tensor,
    previous_T: torch.Tensor,
    is_active_T: torch.Tensor,
    max_norm: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The Nash bargaining solution of the tasks: Navon et al., ICML 2022, claim 3.1 and algorithm 1.

        G α = 1 / α,   α > 0
        shared gradient = Σ α_t g_t, of length √T, shortened to max_norm where it is longer

    Returns alpha_T and the weights to pass to the next call, before they were shortened: float64. `previous_T` is 1 at
    the start. It is used where the equation has no solution, because gradients can be joined to 0. A task that is not
    active, or whose gradient is 0, gets 0 and keeps its previous weight for later. max_norm = inf shortens nothing.

    α minimises the convex ½ αᵀ G α - Σ ln α_t, so Newton's method finds it from any start. Elsewhere: the authors solve
    up to 20 convex programs from the previous α, for G divided by its Frobenius norm but with the constraints of G
    itself, and stop early or keep the previous α where their solver fails; they shorten the gradient of the shared
    parameters, so that the weights of the task towers stay long. TorchJD is the same, and shortens α.
    """
    takes_part_T = is_active_T & (norms(gram_TT) != 0)
    previous_T = previous_T.double()

    def solve(gram_AA: torch.Tensor) -> torch.Tensor:
        alpha_A = _bargain(gram_AA)
        return previous_T[takes_part_T] if alpha_A is None else alpha_A

    alpha_T = of_active(takes_part_T, gram_TT, solve)
    kept_T = torch.where(takes_part_T & alpha_T.isfinite(), alpha_T, previous_T)
    # Gradients that take no part may be NaN, and NaN · 0 is NaN.
    norm = combined_norm(alpha_T, gram_TT.double().where(takes_part_T & takes_part_T[:, None], 0))
    return alpha_T * (max_norm / norm).clamp(max=1), kept_T


def _bargain(gram_TT: torch.Tensor) -> torch.Tensor | None:
    """α with G α = 1 / α; None where there is none. With β_t = α_t ‖g_t‖ and the cosines C it is C β = 1 / β."""
    beta = _newton(_array(cosines(gram_TT)))
    if beta is None:
        return None
    return torch.from_numpy(beta).to(gram_TT.device) / norms(gram_TT)


def _newton(cosine: Array) -> Array | None:
    """β > 0 with C β = 1 / β, by damped Newton steps (Nesterov and Nemirovskii): each keeps β > 0."""
    beta = np.ones(len(cosine))
    for _ in range(NEWTON_STEPS):
        slope = cosine @ beta - 1 / beta
        step = np.linalg.solve(cosine + np.diag(beta**-2), -slope)
        square = float(-slope @ step)
        # Below 0 by rounding: at the end, or where there is no end because gradients can be joined to 0.
        if square < NEWTON_TOLERANCE**2:
            break
        beta = beta + step / (1 + math.sqrt(square))

    is_solved = np.allclose(beta * (cosine @ beta), 1, rtol=0, atol=1e-6)
    return beta if is_solved else None
