"""What a store answers badly once is asked for again: it throttles, cuts connections and restarts.

A disk is not: what it does not read, it will not read a second later.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from pyarrow import fs

WAITS_SECONDS = (0.25, 0.5, 1, 2, 4, 8, 16)
"""Before each new attempt. A store's own library has tried for some seconds by then."""
LONGEST_SECONDS = 120
"""After which there is no new attempt: where nothing answers at all, the library alone takes 100 s for one."""
_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_FINAL_TEXTS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
"""Of errors that will be the same next time."""
Result = TypeVar("Result")


def retried(
    filesystem: fs.FileSystem, attempt: Callable[[], Result], longest_seconds: float = LONGEST_SECONDS
) -> Result:
    """What `attempt` returns; on a store it is made again after an OSError, up to seven times, then that is raised."""
    begin = time.monotonic()
    if isinstance(filesystem, fs.LocalFileSystem):
        return attempt()

    for seconds in WAITS_SECONDS:
        try:
            return attempt()
        except OSError as error:
            if is_final(error) or time.monotonic() - begin > longest_seconds:
                raise
        time.sleep(seconds)
    return attempt()


def is_final(error: OSError) -> bool:
    """Whether a store will answer the same next time: something is not there, or not allowed."""
    return isinstance(error, _FINAL) or any(text in str(error) for text in _FINAL_TEXTS)
