"""How much memory a process has had."""

import subprocess
import sys

import numpy as np

from trainer.process.host import peak_bytes

MEBIBYTE = 1 << 20
PROGRAM = "import sys; from trainer.process.host import peak_bytes; sys.stdout.write(str(peak_bytes()))"


def test_the_peak_stays_after_the_memory_is_freed() -> None:
    before = peak_bytes()
    held = np.ones(before + 64 * MEBIBYTE, np.uint8)  # more than this process can have had
    del held
    assert before + 64 * MEBIBYTE <= peak_bytes()


def test_what_the_launching_process_had_does_not_count() -> None:
    held = np.ones(300 * MEBIBYTE, np.uint8)
    found = subprocess.run([sys.executable, "-c", PROGRAM], check=True, stdout=subprocess.PIPE, text=True)
    del held
    assert 5 * MEBIBYTE < int(found.stdout) < 200 * MEBIBYTE
