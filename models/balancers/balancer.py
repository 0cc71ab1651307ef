"""From the losses of the tasks to one update: what every method has in common.

    losses_T, labels_T of this rank ─┐
    ∂L_t/∂y of each task ────────────┴► one sum over the ranks: global losses, who has labels, Gram matrix G_TT
                                        │
                                        ▼  method: the same on every rank
                              weights_T of the losses, or of the gradients that go on to what is shared (gate.py)
                                        │
                                        ▼  at a sound step: commit() keeps the method's new state

With world size W the loss of a rank is that of its rows, and the trained one the mean over ranks: global losses are
Σ/W, the Gram matrix Σ/W².

Shapes: B rows of this rank, F width of the shared representation, T tasks.
"""

import torch
from torch import nn

from data.hashing import stable_seed
from models.balancers.cosine_sums import CosineSums
from models.balancers.gate import GradientGate
from models.balancers.gram import inner_products
from models.balancers.method import Group, Rows, Seen, keep
from models.balancers.settings import BalanceConfig, Tasks


class Balancer(nn.Module):
    """Weighs the losses of a training step; in evaluation it adds them up."""

    kept_T: torch.Tensor
    """Weights when they were last renewed."""
    is_trained_T: torch.Tensor
    """Whether the task's own weight is above 0."""

    def __init__(self, config: BalanceConfig, tasks: Tasks, global_batch_size: int, seed: int) -> None:
        """`seed`: of the run."""
        super().__init__()
        self.at = config.at if config.looks_at_shared else None
        """Where the gate stands; None: nowhere, since the method looks at losses alone."""
        self.method = config.build(tasks)
        self.gate = GradientGate(self.method.read)
        self.ranks = Group()
        self._global_batch_size = global_batch_size
        self._every = config.every
        self._seed = seed
        self._samples = 0
        self.seen: Seen | None = None
        """Of the newest step in which weights were renewed, for the log."""
        self.register_buffer("kept_T", torch.ones(len(tasks.configs), dtype=torch.float64))
        is_trained_T = torch.tensor([task.loss_weight > 0 for task in tasks.configs])
        self.register_buffer("is_trained_T", is_trained_T, persistent=False)
        self.cosines = CosineSums(len(tasks.configs)) if self.method.gradients != "none" else None
        """Of the steps in which weights were renewed; None where no gradients are taken."""
        self._proposed_T = self.kept_T
        self._renewed_gram_TT: torch.Tensor | None = None
        """Of the step under way."""

    def begin(self, samples: int | None = None) -> None:
        """A training step begins, whose batch begins at `samples`, or behind the last one."""
        self._samples = self._samples + self._global_batch_size if samples is None else samples
        self._proposed_T = self.kept_T
        self._renewed_gram_TT = None
        self.method.proposed = {}
        self.gate.open()

    def forward(self, losses_T: torch.Tensor, labels_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
        """The loss that is trained: of this rank's losses and labels, whose weight is 0 where they are missing."""
        if not (self.training and losses_T.requires_grad):
            return losses_T.sum()

        renews = (self._samples // self._global_batch_size) % self._every == 0
        kind = self.method.gradients
        takes = kind == "combined" or (kind != "none" and renews)
        gradient_TBF = self.gate.gradients(losses_T) if takes else None
        seen = self._meet(losses_T.detach(), (weights_BT > 0).sum(dim=0), gradient_TBF)
        weights_T = (self._renewed(seen, gradient_TBF) if renews else self.kept_T).to(losses_T)
        if kind == "weighed":
            self.gate.hand_on(self._weighed(losses_T, weights_T, gradient_TBF))
            return losses_T.sum()
        if gradient_TBF is not None and kind == "combined":
            rows = Rows(self.ranks.rank * gradient_TBF.shape[1], self._global_batch_size)
            self.gate.hand_on(self.method.combine(gradient_TBF, seen, rows))
            return losses_T.sum()
        loss = self.method.objective(losses_T, weights_T, seen.is_active_T)
        extra = self.method.extra_loss(self.gate.parts, labels_BT, weights_BT)
        return loss if extra is None else loss + extra

    @torch.no_grad()
    def commit(self, unsound: torch.Tensor | None = None) -> None:
        """The step was sound, as far as the host knows: the new state is kept.

        `unsound`: a scalar on a device that runs behind the host; where it is not 0 all stays as it is. Asynchronous.
        """
        keep(self.kept_T, self._proposed_T, unsound)
        self.method.commit(unsound)
        if self.cosines is not None and self._renewed_gram_TT is not None:
            self.cosines.add(self._renewed_gram_TT, unsound)

    @torch.no_grad()
    def _meet(self, losses_T: torch.Tensor, labels_T: torch.Tensor, gradient_TBF: torch.Tensor | None) -> Seen:
        """What all ranks know together. Collective."""
        num_tasks = len(losses_T)
        sums = [losses_T.double(), labels_T.double()]
        if gradient_TBF is not None:
            sums.append(inner_products(gradient_TBF).flatten() / self.ranks.size)

        losses_T, labels_T, *gram = self.ranks.sum(torch.cat(sums)).split(num_tasks)
        return Seen(
            losses_T=losses_T / self.ranks.size,
            is_active_T=(labels_T > 0) & self.is_trained_T,
            gram_TT=torch.stack(gram) / self.ranks.size if gram else None,
            samples=self._samples,
            seed=stable_seed(self._seed, "balance", self._samples),
        )

    @torch.no_grad()
    def _renewed(self, seen: Seen, gradient_TBF: torch.Tensor | None) -> torch.Tensor:
        """weights_T of this batch. Where it is not finite the guard will find the step unsound."""
        self.seen = seen
        # The solvers of methods by gradients want finite numbers; to look means to wait for a GPU.
        if gradient_TBF is None or seen.is_finite:
            self._renewed_gram_TT = seen.gram_TT
            # A task without a label here may have some in the steps for which the weights are kept.
            self._proposed_T = torch.where(seen.is_active_T, self.method.weigh(seen), self.kept_T)
            if gradient_TBF is not None:
                self.method.learn(gradient_TBF, seen, self.ranks)
        return self._proposed_T

    def _weighed(
        self, losses_T: torch.Tensor, weights_T: torch.Tensor, gradient_TBF: torch.Tensor | None
    ) -> torch.Tensor:
        """gradient_BF: the sum of the gradients by weights."""
        if gradient_TBF is None:
            return self.gate.gradients((losses_T * weights_T).sum().reshape(1))[0]
        return torch.einsum("t,tbf->bf", weights_T, gradient_TBF)
