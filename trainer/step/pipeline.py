"""The training pipeline, with a guard between gradients and update."""

from collections import deque
from collections.abc import Iterator

import torch
from torch.profiler import profile
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from data.batch import Batch
from data.hashing import stable_seed
from models.balancers.balancer import Balancer
from models.heads.base import Head
from models.ranker import StepOutput
from trainer.sharding.replicas import Averaging
from trainer.step.guard import StepGuard
from trainer.step.verdict import StepResult


class GuardedPipeline(TrainPipelineSparseDist[Batch, StepOutput]):
    """TorchRec's pipeline: while a batch is trained, the ids of the next one are sent to the ranks of their tables."""

    guard: StepGuard | None = None
    profiler: profile | None = None
    averaging: Averaging | None = None
    balancer: Balancer | None = None
    head: Head | None = None
    seed = 0
    """Of the run, for what the head draws."""

    def guard_with(self, guard: StepGuard) -> None:
        """Has every training step judged by `guard`."""
        self.guard = guard
        self._unread: deque[tuple[int, StepOutput]] = deque()

    def train_step(self, batches: Iterator[Batch], samples: int, *, settle: bool) -> list[StepResult]:
        """Trains on the next batch, which begins at `samples`; nothing is updated if a rank finds the step unsound.

        Returns the steps of which the host has learned meanwhile: this one, or with a GPU the one before it. After
        `settle`, and wherever a rank wants the loop to do something, no step is left open. Collective.
        """
        assert self.guard is not None, "a pipeline without a guard has no verdicts"
        self.begin(samples)
        self._unread.append((samples, self.progress(batches)))
        results = []
        while len(self._unread) > (0 if settle else self.guard.lag):
            begin, output = self._unread.popleft()
            verdict = self.guard.read()
            results.append(StepResult(begin, output, verdict))
            settle |= verdict.stop or verdict.save or verdict.failed

        if self.averaging is not None:
            self.averaging.after_step(samples, at_rest=settle)
        return results

    def begin(self, samples: int | None = None) -> None:
        """The next step of training begins, at `samples` or behind the last. Before a `progress` call it yourself."""
        if self.balancer is not None:
            self.balancer.begin(samples)
        if self.head is not None and samples is not None:
            self.head.begin(samples, stable_seed(self.seed, "head", samples))

    def progress(self, dataloader_iter: Iterator[Batch]) -> StepOutput:
        """A step, in training or evaluation; StopIteration where there is no batch left."""
        output = super().progress(dataloader_iter)
        if self.profiler is not None and self._model.training:
            self.profiler.step()
        return output

    def _backward(self, losses: torch.Tensor) -> None:
        if self.guard is not None:
            self.guard.expect(losses)
        super()._backward(losses)

    def _optimizer_step(self) -> None:
        if self.guard is None or self.guard.updates:
            super()._optimizer_step()
            if self.balancer is not None:
                self.balancer.commit(None if self.guard is None else self.guard.found_inf)
