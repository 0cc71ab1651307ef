"""Verdicts that the ranks reach on their GPUs, while the host is already preparing the next step.

    wishes of the hosts ──► device ─┐                        ┌─► gradient of the tables: zero where a rank is unsound
    loss, gradients: finite? ───────┴► one small all-reduce ─┼─► found_inf: the dense optimizer leaves all as it is
                                                             └─► pinned host memory: read one step later

Nothing here waits for the device but `read`, and by then the device is a step further.
"""

from collections import deque
from typing import NamedTuple

import torch
import torch.distributed as dist

from trainer.step.verdict import Verdict, verdict_of


class _Pending(NamedTuple):
    """A verdict on its way to the host."""

    sums: torch.Tensor
    """On the host."""
    arrived: torch.cuda.Event | None
    """None on a CPU, where copies are complete at once."""


class DeviceVerdicts:
    """The verdicts of a training whose host runs ahead of the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = device.type == "cuda"
        self._pending: deque[_Pending] = deque()
        self.found_inf = torch.zeros((), device=device)
        """1 after a step that a rank finds unsound, else 0: torch's fused optimizers then change nothing."""

    def judge(self, gradient_BF: torch.Tensor, is_finite: torch.Tensor, wishes: list[int]) -> torch.Tensor:
        """The gradient, or zeros if any rank finds the step unsound. Collective: call on all ranks.

        `is_finite`: of this rank, a bool on the device; `wishes`: what this host contributes to the other fields.
        """
        own = torch.tensor([0, *wishes], pin_memory=self._pinned)
        sums = own.to(self._device, non_blocking=True)
        sums[0] = ~is_finite
        dist.all_reduce(sums)  # of the default group: behind the gradients of the head, whichever rank is late

        is_unsound = sums[0] > 0
        self.found_inf.copy_(is_unsound)
        self._pending.append(self._to_host(sums))
        return gradient_BF.masked_fill(is_unsound, 0.0)  # not a product: 0 · NaN is NaN

    def read(self) -> Verdict:
        """The oldest verdict that has not been read; waits until the device has reached it."""
        pending = self._pending.popleft()
        if pending.arrived is not None:
            pending.arrived.synchronize()
        return verdict_of(pending.sums.tolist())

    def _to_host(self, sums: torch.Tensor) -> _Pending:
        target = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=self._pinned)
        target.copy_(sums, non_blocking=True)
        if not self._pinned:
            return _Pending(target, None)

        arrived = torch.cuda.Event()
        arrived.record()
        return _Pending(target, arrived)
