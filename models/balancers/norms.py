"""Weights that make the tasks' gradients alike: in length (GradNorm), or in their share of the step (IMTL-G).

Shapes: T tasks, A active tasks, N dimensions in which no gradient reaches.
"""

import torch

from models.balancers.gram import cosines, norms, of_active

SMALLEST_WEIGHT = 1e-3
# Cosines have rounding errors of some 1e-16; below this an eigenvalue is taken for 0.
RANK_TOLERANCE = 1e-12


def gradnorm(
    weights_T: torch.Tensor,
    norms_T: torch.Tensor,
    loss_ratios_T: torch.Tensor,
    is_active_T: torch.Tensor,
    learning_rate: float,
    alpha: float = 1.5,
) -> torch.Tensor:
    """The weights after one step: Chen et al., ICML 2018, equation 2 and algorithm 1.

        L_grad = Σ_t |w_t ‖g_t‖ - target_t|,   target_t = mean_s(w_s ‖g_s‖) · r_t^α, held constant
        r_t = (L_t / L_t⁰) / mean_s(L_s / L_s⁰)
        w ← w - learning rate · ∂L_grad/∂w,   then scaled so that Σ w = T

    norms_T: ‖g_t‖ of the gradients without weights. loss_ratios_T: L_t / L_t⁰, at least 0. weights_T: their sum is T.
    Means are over the active tasks; the weights of the others stay, and the active ones fill the sum to T.

    Nothing in the paper keeps a weight from falling below 0, where its task would be trained backwards; here the step
    ends at SMALLEST_WEIGHT.
    Elsewhere: LibMTL learns the logits of w = T softmax(logits), not w.
    """
    weights_T = weights_T.double()
    weights_A, norms_A, ratios_A = (values_T[is_active_T].double() for values_T in (weights_T, norms_T, loss_ratios_T))

    # Where all losses are 0 their relative rates are 0 / 0; the targets are 0 then.
    rates_A = ratios_A / ratios_A.mean().clamp(min=torch.finfo(torch.float64).tiny)
    targets_A = (weights_A * norms_A).mean() * rates_A**alpha
    slopes_A = norms_A * (weights_A * norms_A - targets_A).sign()
    moved_A = (weights_A - learning_rate * slopes_A).clamp(min=SMALLEST_WEIGHT)

    result_T = weights_T.clone()
    remaining = len(weights_T) - weights_T[~is_active_T].sum()
    result_T[is_active_T] = moved_A * remaining / moved_A.sum()
    return result_T


def imtl_g(gram_TT: torch.Tensor) -> torch.Tensor:
    """Weights with which the shared gradient has the same projection on each task's: Liu et al., ICLR 2021.

        ⟨Σ_s α_s g_s, g_t / ‖g_t‖⟩ is the same for all t,   Σ α = 1

    With β_t = α_t ‖g_t‖ and the cosines C it reads C β = constant · 1, exact for gradients of very different lengths
    too. Weights may be negative, as in the paper. A task whose gradient is 0 gets 0. Where no such weights have the
    sum 1, all are 0. alpha_T: float64.

    Equal to the paper's closed form with an inverse wherever that exists. Elsewhere: the Nash-MTL authors add 1e-8 to a
    singular matrix; TorchJD takes the pseudo-inverse of G, which for opposed gradients of different lengths gives
    weights that do not solve the equation.
    """
    return of_active(norms(gram_TT) != 0, gram_TT, _of_equal_projections)


def _of_equal_projections(gram_TT: torch.Tensor) -> torch.Tensor:
    alpha_T = _equal_projections(cosines(gram_TT)) / norms(gram_TT)
    total = alpha_T.sum()
    if total.abs() <= RANK_TOLERANCE * alpha_T.abs().sum():
        return torch.zeros_like(alpha_T)
    return alpha_T / total


def _equal_projections(cosine_TT: torch.Tensor) -> torch.Tensor:
    """β with C β = constant · 1; of several the shortest."""
    eigenvalues_T, vectors_TT = torch.linalg.eigh(cosine_TT)
    ones_T = vectors_TT.sum(dim=0)
    is_null_T = eigenvalues_T < RANK_TOLERANCE * len(cosine_TT)

    # Opposed gradients: some β of equal signs joins them to 0, whose projections are all 0.
    null_T = vectors_TT[:, is_null_T] @ ones_T[is_null_T]
    if null_T.norm() > RANK_TOLERANCE**0.5:
        return null_T
    return vectors_TT[:, ~is_null_T] @ (ones_T[~is_null_T] / eigenvalues_T[~is_null_T])
