"""A switch between TAP devices, in this process: it can delay and lose frames, which needs `netem` in a kernel.

    python -m tests.cluster.switch HOST DELAY_SECONDS LOSS NAMESPACE…

makes a device eth0 in every namespace, prints a line when all are there, and hands frames on until it is ended. Frames
from the HOST (a number) take DELAY_SECONDS longer, and are lost with the probability LOSS, as by `netem` on its device.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
LONGEST_FRAME = 1 << 16


def open_device(namespace: str) -> int:
    """A TAP device called eth0 in a namespace."""
    with Path("/proc/self/ns/net").open("rb") as home, (Path("/run/netns") / namespace).open("rb") as other:
        _enter(other.fileno())
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", b"eth0", IFF_TAP | IFF_NO_PI))
        finally:
            _enter(home.fileno())
    return device


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")


class Switch:
    """Learns which address is at which device, and hands frames on."""

    def __init__(self, devices: list[int], slow: int, delay_seconds: float, loss: float) -> None:
        self._devices = devices
        self._slow = devices[slow]
        self._delay = delay_seconds
        self._loss = loss
        self._chance = random.Random(0)
        self._places: dict[bytes, int] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def run(self) -> None:
        """For ever."""
        while True:
            wait = max(self._waiting[0][0] - time.monotonic(), 0) if self._waiting else None
            for device in select.select(self._devices, [], [], wait)[0]:
                with suppress(BlockingIOError):
                    self._take(device, os.read(device, LONGEST_FRAME))
            self._send_due()

    def _take(self, source: int, frame: bytes) -> None:
        target, sender = frame[:6], frame[6:12]
        self._places[sender] = source
        known = self._places.get(target)
        for device in [known] if known is not None else self._devices:
            if device == source:
                continue
            slow = source == self._slow
            if slow and self._chance.random() < self._loss:
                continue
            self._count += 1
            due = time.monotonic() + (self._delay if slow else 0.0)
            heapq.heappush(self._waiting, (due, self._count, device, frame))

    def _send_due(self) -> None:
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            _, _, device, frame = heapq.heappop(self._waiting)
            with suppress(OSError):  # a device whose host is not up yet
                os.write(device, frame)


def main() -> None:
    slow, delay_seconds, loss, *namespaces = sys.argv[1:]
    devices = [open_device(namespace) for namespace in namespaces]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    Switch(devices, int(slow), float(delay_seconds), float(loss)).run()


if __name__ == "__main__":
    main()
