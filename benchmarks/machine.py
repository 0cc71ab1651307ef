"""The limit that benchmarks are held against: the rate of a large matrix product, on the same device and threads."""

import time

import torch

from trainer.distributed.world import World

PRODUCT_SIZE = 2048
"""Side of the square product."""


def synchronise(device: torch.device) -> None:
    """Waits for the device's queue; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def meet(world: World) -> None:
    """Waits until all ranks are here. Collective: call on all ranks."""
    world.sum(torch.zeros(1, device=world.device)).cpu()


class Product:
    """A float32 product of PRODUCT_SIZE."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._left = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=device)
        self._right = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=device)

    def flops_per_second(self) -> float:
        """Of one product, timed now: the speed of a shared machine drifts."""
        synchronise(self._device)
        begin = time.perf_counter()
        self._left @ self._right
        synchronise(self._device)
        return float(2 * PRODUCT_SIZE**3 / (time.perf_counter() - begin))
