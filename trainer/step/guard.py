"""The one meeting of all ranks in a step: is the update sound, has anyone been asked to stop, is it time to save?

    forward → loss → backward through the head ─┐
                                                ├─ one small all-reduce: on the host, or on the GPUs
    update of the tables (fused into their      │  (trainer.step.device_verdicts)
    backward pass), update of the dense part  ◄─┘

It sits where the gradients of the head are complete and no weight has changed yet. A step that any rank finds unsound
leaves all weights as they are, on all ranks: the tables get a gradient of zero, the dense optimizer does not step.
"""

import time
from typing import Any

import torch
from torch import nn

from models.balancers.balancer import Balancer
from trainer.batches import TrainBatches
from trainer.distributed.preemption import StopRequest
from trainer.distributed.watchdog import HangWatchdog
from trainer.distributed.world import World
from trainer.step.device_verdicts import DeviceVerdicts
from trainer.step.verdict import Verdict, verdict_of


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
        self._verdict = Verdict()
        """Of the last backward pass, where the host knows it at once."""
        self.on_device = DeviceVerdicts(world.device) if world.runs_ahead else None

    @property
    def lag(self) -> int:
        """How many steps the host begins before it reads the verdict on the first of them."""
        return 0 if self.on_device is None else 1

    @property
    def found_inf(self) -> torch.Tensor | None:
        """1 after a step that is unsound, else 0, where only the device knows of it."""
        return None if self.on_device is None else self.on_device.found_inf

    @property
    def updates(self) -> bool:
        """Whether the dense optimizer is to step; on a GPU it does, and `found_inf` tells it to change nothing."""
        return not self._verdict.unsound

    def watch(self, head: nn.Module, balancer: Balancer | None = None) -> None:
        """Judges whenever the gradient of what the features give to all of these has been computed."""
        parameters = list(head.parameters())
        entrance = head
        if balancer is not None:
            parameters += balancer.parameters()
            entrance = balancer.gate if balancer.at == "features" else head

        def before_forward(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            features_BF = inputs[0]
            if isinstance(features_BF, torch.Tensor) and features_BF.requires_grad:  # not while it is traced
                features_BF.register_hook(lambda gradient_BF: self._judge(gradient_BF, parameters))

        entrance.register_forward_pre_hook(before_forward)

    def expect(self, loss: torch.Tensor) -> None:
        """The loss whose gradient comes next."""
        self._loss = loss.detach()

    def saved(self) -> None:
        """A save begins: `every_minutes` counts from here."""
        self._saved = time.monotonic()

    def read(self) -> Verdict:
        """The verdict on the oldest step that has not been read."""
        if self.on_device is None:
            return self._verdict
        with self._watchdog.waiting():
            return self.on_device.read()

    def agree(self, unsound: bool = False) -> Verdict:
        """What all ranks know together, on the host. Collective: call on all ranks."""
        sums = torch.tensor([unsound, *self._wishes()], dtype=torch.int64)
        with self._watchdog.waiting():
            self._world.sum(sums)
        return verdict_of(sums.tolist())

    def _wishes(self) -> list[int]:
        """What this rank contributes to a verdict, but for whether the step is unsound."""
        seconds = time.monotonic() - self._saved
        save = self._world.is_rank_zero and 0 < 60 * self._every_minutes <= seconds
        failed = self._batches.error is not None
        account = self._batches.account
        num_skipped = len(account.skipped) + account.num_bad_values
        return [self._stop.requested, save, failed, num_skipped]

    def _judge(self, gradient_BF: torch.Tensor, parameters: list[nn.Parameter]) -> torch.Tensor | None:
        assert self._loss is not None
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        judged = [self._loss.reshape(1), gradient_BF, *gradients]
        is_finite = nn.utils.get_total_norm(judged, norm_type=float("inf")).isfinite()
        if self.on_device is not None:
            return self.on_device.judge(gradient_BF, is_finite, self._wishes())

        self._verdict = self.agree(unsound=not is_finite)
        return torch.zeros_like(gradient_BF) if self._verdict.unsound else None
