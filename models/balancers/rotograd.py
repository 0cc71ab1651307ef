"""RotoGrad: each task reads the trunk through a rotation of its own, learned so that the gradients agree.

Javaloy and Valera, ICLR 2022, sections 3.1 and 3.2.

    y ──► R_t y ──► tower of task t        G_t = ∂L_t/∂y of all rows, U_t = G_t / ‖G_t‖, V = mean_t U_t

    length      what y gets is C Σ_t U_t,   C = Σ_t a_t ‖G_t‖,   a_t ∝ ‖G_t‖ / ‖G_t⁰‖, Σ a = 1
    direction   R_t is moved to raise ⟨U_t, V⟩, while ∂L_t/∂(R_t y) and V are held constant

G_t⁰ is the task's first gradient, and that after the burn-in from then on, as in the authors' code.

With R_t ← R_t exp(A), A skew, the slope of ⟨U_t, V⟩ at A = 0 is U_tᵀV - VᵀU_t, whatever R_t is, and A is the learning
rate times it: plain gradient ascent, as in the paper. So R_t stays a rotation, no derivative of the exponential is
needed, and two gradients of one row at an angle φ turn by rate · sin(φ) / 2 each, towards each other.

Differs: the paper's objective is ⟨G_t, V⟩, in which tasks with long gradients turn faster. The authors' code minimises
‖R_t V - ∂L_t/∂(R_t y)‖² with V as long as the mean gradient, whose slope has the same direction; it writes
R_t = exp(A_t) and moves A_t by Adam, whose steps have the same length whether the rows agree or not.

Shapes: B rows of this rank, F width of the trunk, T tasks.
"""

from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional

from models.balancers.gram import norms
from models.balancers.method import Group, Method, Seen
from models.balancers.settings import BalanceConfig, Tasks
from models.heads.base import HeadConfig
from models.heads.shared_bottom import SharedBottomConfig
from models.tasks import TaskConfig

WIDEST = 512
"""Most units of the trunk: a step multiplies matrices of F × F some 10 times for each task."""


class RotoGradConfig(BalanceConfig):
    """A learned rotation of the trunk's output for each task, so that gradients agree, and gradients of equal lengths
    (Javaloy and Valera, ICLR 2022). With shared_bottom alone, and no task that is a product."""

    method: Literal["rotograd"] = "rotograd"
    at: Literal["features", "trunk"] = "trunk"
    """Only trunk: what is turned for a task must be read by this task alone."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of the rotations: share of the way to the mean gradient that they turn at a step. The towers must be able to
    follow, so it should be slow beside theirs."""
    burn_in: int = Field(default=20, ge=0)
    """Renewals of the weights after which the gradients' first lengths are taken anew."""

    def build(self, tasks: Tasks) -> Method:
        """The method."""
        return RotoGrad(len(tasks.configs), tasks.width, self.learning_rate, self.burn_in)

    def check(self, head: HeadConfig, tasks: tuple[TaskConfig, ...]) -> None:
        """Raises ValueError if tasks have no towers of their own on one trunk, or the trunk is too wide."""
        name = "balance.method = 'rotograd'"
        if not isinstance(head, SharedBottomConfig) or self.at != "trunk":
            raise ValueError(
                f"{name} turns the output of one trunk for each task's tower: it takes model.head = 'shared_bottom' "
                "with balance.at = 'trunk'; set both, or choose another method"
            )
        products = [task.name for task in tasks if task.of]
        if products:
            raise ValueError(
                f"{name}: task {products[0]!r} is a product, which has no tower to turn the trunk for; remove it, or "
                "choose another method"
            )
        width = head.end_to_end[-1]
        if width > WIDEST:
            size = len(tasks) * width**2 * 8
            raise ValueError(
                f"{name} keeps a rotation of {width} × {width} for each of {len(tasks)} tasks ({size:,} bytes), and "
                f"renews it in every step; end model.levels with at most {WIDEST} units, or choose another method"
            )


def equal_lengths(norms_T: torch.Tensor, first_T: torch.Tensor, takes_part_T: torch.Tensor) -> torch.Tensor:
    """Weights C / ‖G_t‖, with which all gradients have the length C; 0 for tasks that take no part.

    first_T: ‖G_t⁰‖. Norms of tasks that take part are not 0. weights_T: float64.
    """
    weights_T = torch.zeros_like(norms_T, dtype=torch.float64)
    norms_A, first_A = norms_T[takes_part_T].double(), first_T[takes_part_T].double()
    ratios_A = norms_A / first_A
    length = (ratios_A * norms_A).sum() / ratios_A.sum()
    weights_T[takes_part_T] = length / norms_A
    return weights_T


def slopes(gradient_TBF: torch.Tensor, norms_T: torch.Tensor, takes_part_T: torch.Tensor) -> torch.Tensor:
    """slope_TFF, U_tᵀV - VᵀU_t, of these rows; 0 for tasks that take no part. float64.

    norms_T: of the gradients of all rows, of which these may be some: slopes of several sets of rows add up.
    """
    wide = torch.promote_types(gradient_TBF.dtype, torch.float32)
    scale_T = torch.where(takes_part_T, 1 / norms_T, 0)
    mean_T = scale_T / takes_part_T.sum().clamp(min=1)
    gradient_TBF = gradient_TBF.to(wide)
    mean_BF = torch.einsum("t,tbf->bf", mean_T.to(wide), gradient_TBF)
    product_TFF = (gradient_TBF.transpose(1, 2) @ mean_BF).double() * scale_T[:, None, None]
    return product_TFF - product_TFF.transpose(1, 2)


def turned_by(rotation_TFF: torch.Tensor, slope_TFF: torch.Tensor, learning_rate: float) -> torch.Tensor:
    """rotation_TFF after a step; float64."""
    turned_TFF = rotation_TFF @ torch.linalg.matrix_exp(learning_rate * slope_TFF)
    # Rounding errors add up over the steps; Newton's iteration for the nearest orthogonal matrix removes them.
    return 1.5 * turned_TFF - 0.5 * turned_TFF @ turned_TFF.transpose(1, 2) @ turned_TFF


class RotoGrad(Method):
    """The rotations, and what lengths are relative to."""

    gradients = "weighed"

    rotation_TFF: torch.Tensor
    first_T: torch.Tensor
    """Lengths of the first gradients, 0 where there was none yet."""
    batches_T: torch.Tensor
    """In which the task took part."""

    def __init__(self, num_tasks: int, width: int, learning_rate: float, burn_in: int) -> None:
        super().__init__()
        self._learning_rate = learning_rate
        self._burn_in = burn_in
        identity_TFF = torch.eye(width, dtype=torch.float64).repeat(num_tasks, 1, 1)
        self.register_buffer("rotation_TFF", identity_TFF)
        self.register_buffer("first_T", torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("batches_T", torch.zeros(num_tasks, dtype=torch.int64))

    def weigh(self, seen: Seen) -> torch.Tensor:
        """Of the gradients."""
        norms_T, takes_part_T = _lengths(seen)
        is_first_T = takes_part_T & ((self.batches_T == 0) | (self.batches_T == self._burn_in))
        first_T = torch.where(is_first_T, norms_T, self.first_T)
        self.propose(first_T=first_T, batches_T=self.batches_T + takes_part_T)
        return equal_lengths(norms_T, first_T, takes_part_T)

    def learn(self, gradient_TBF: torch.Tensor, seen: Seen, ranks: Group) -> None:
        """Turns the rotations by the gradients of all rows. Collective."""
        norms_T, takes_part_T = _lengths(seen)
        # A rank's loss is a mean over its rows, so its gradients are `size` times those of the global loss.
        slope_TFF = ranks.sum(slopes(gradient_TBF, ranks.size * norms_T, takes_part_T))
        self.propose(rotation_TFF=turned_by(self.rotation_TFF, slope_TFF, self._learning_rate))

    def read(self, y_BF: torch.Tensor) -> torch.Tensor:
        """R_t y for each task, y_BTF."""
        num_tasks, width, _ = self.rotation_TFF.shape
        rotation_MF = self.rotation_TFF.to(y_BF).flatten(0, 1)
        return functional.linear(y_BF, rotation_MF).unflatten(1, (num_tasks, width))


def _lengths(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    """norms_T, and which tasks take part: those with a label and a gradient."""
    norms_T = norms(seen.gram)
    return norms_T, seen.is_active_T & (norms_T > 0)
