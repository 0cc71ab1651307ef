"""The one meeting of all ranks in a step: is the update sound, has anyone been asked to stop, is it time to save?

    forward → loss → backward through the head ─┐
                                                ├─ judge: one small all-reduce on the host
    update of the tables (fused into their      │
    backward pass), update of the dense part  ◄─┘

It sits where the gradients of the head are complete and no weight has changed yet. A step that any rank finds unsound
leaves all weights as they are, on all ranks: the tables get a gradient of zero, the dense optimizer does not step.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import profile
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from data.batch import Batch
from models.ranker import StepOutput
from trainer.batches import TrainBatches
from trainer.distributed.preemption import StopRequest
from trainer.distributed.watchdog import HangWatchdog
from trainer.distributed.world import World


class Verdict(NamedTuple):
    """What all ranks know after a step, alike."""

    unsound: bool = False
    """A loss or a gradient is not finite; nothing was updated."""
    stop: bool = False
    """A rank has been asked to stop."""
    save: bool = False
    """`checkpoint.every_minutes` have passed."""
    failed: bool = False
    """A rank cannot read its data any more."""
    skipped: int = 0
    """Stretches of unreadable rows, and of rows with bad values, that the ranks have met in this start."""


class StepResult(NamedTuple):
    """What the loop gets to know of a training step."""

    output: StepOutput
    """Of this rank's share of the batch."""
    verdict: Verdict
    """Of all ranks, the same on each."""


class StepGuard:
    """Judges every step on all ranks together."""

    def __init__(
        self,
        world: World,
        stop: StopRequest,
        watchdog: HangWatchdog,
        batches: TrainBatches,
        every_minutes: float = 0,
    ) -> None:
        self._world = world.with_own_group()
        self._stop = stop
        self._watchdog = watchdog
        self._batches = batches
        self._every_minutes = every_minutes
        self._saved = time.monotonic()
        self._loss: torch.Tensor | None = None
        self.verdict = Verdict()
        """Of the last backward pass; the loop gets it from `GuardedPipeline.train_step`."""

    def attach(self, head: nn.Module, pipeline: "GuardedPipeline") -> None:
        """Judges whenever the gradient of the head's input has been computed."""
        pipeline.guard = self
        parameters = list(head.parameters())

        def before_forward(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            features_BF = inputs[0]
            if isinstance(features_BF, torch.Tensor) and features_BF.requires_grad:  # not while it is traced
                features_BF.register_hook(lambda gradient_BF: self._judge(gradient_BF, parameters))

        head.register_forward_pre_hook(before_forward)

    def expect(self, loss: torch.Tensor) -> None:
        """The loss whose gradient comes next."""
        self._loss = loss.detach()

    def saved(self) -> None:
        """A save begins: `every_minutes` counts from here."""
        self._saved = time.monotonic()

    def agree(self, unsound: bool = False) -> Verdict:
        """What all ranks know together. Collective: call on all ranks."""
        seconds = time.monotonic() - self._saved
        save = self._world.is_rank_zero and 0 < 60 * self._every_minutes <= seconds
        failed = self._batches.error is not None
        account = self._batches.account
        num_skipped = len(account.skipped) + account.num_bad_values
        flags_5 = torch.tensor([unsound, self._stop.requested, save, failed, num_skipped], dtype=torch.int64)

        # The one collective of a step on the host. Its sums tell each rank what any of them knows.
        with self._watchdog.waiting():
            unsound_ranks, stopped_ranks, saving_ranks, failed_ranks, skipped = self._world.sum(flags_5).tolist()

        return Verdict(
            unsound=unsound_ranks > 0,
            stop=stopped_ranks > 0,
            save=saving_ranks > 0,
            failed=failed_ranks > 0,
            skipped=skipped,
        )

    def _judge(self, gradient_BF: torch.Tensor, parameters: list[nn.Parameter]) -> torch.Tensor | None:
        assert self._loss is not None
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        judged = [self._loss.reshape(1), gradient_BF, *gradients]
        largest = nn.utils.get_total_norm(judged, norm_type=float("inf"))
        self.verdict = self.agree(unsound=not bool(largest.isfinite()))
        return torch.zeros_like(gradient_BF) if self.verdict.unsound else None


class GuardedPipeline(TrainPipelineSparseDist[Batch, StepOutput]):
    """The training pipeline, with a guard between gradients and update."""

    guard: StepGuard | None = None
    profiler: profile | None = None

    def train_step(self, batches: Iterator[Batch]) -> StepResult:
        """Trains on the next batch, or on none if any rank finds the step unsound. Collective: call on all ranks."""
        assert self.guard is not None, "a pipeline without a guard has no verdicts"
        # The backward pass inside has called the guard's hook, which left its verdict there.
        output = self.progress(batches)
        return StepResult(output, self.guard.verdict)

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
        if self.guard is None or not self.guard.verdict.unsound:
            super()._optimizer_step()
