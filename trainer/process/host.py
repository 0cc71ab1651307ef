"""What a process asks of its host: an end with its launcher, memory that stays, and how much it has had."""

import ctypes
import platform
import re
import resource
import sys
from pathlib import Path


def end_without_launcher(number: int) -> None:
    """Asks the system for a signal when the launcher dies: ranks that nobody watches would hold up the next start.

    SIGTERM, so that all ranks save and stop; but SIGKILL, as if the node were lost, where the others can go on.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory: fresh pages for the activations of every step cost a tenth of a CPU step."""
    if platform.libc_ver()[0] != "glibc":
        return

    m_trim_threshold = -1
    m_mmap_threshold = -3
    threshold_bytes = 1 << 30
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_threshold, threshold_bytes)
    libc.mallopt(m_trim_threshold, threshold_bytes)


def peak_bytes() -> int:
    """The most memory that this process has had so far, apart from a GPU's."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where rusage counts what the launching process had, too
        peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if peak:
            return int(peak[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1 << 10)
