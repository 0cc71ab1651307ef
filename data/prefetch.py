"""Runs an iterator in a background thread, a few items ahead of its consumer."""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetcher(Iterator[Item], Generic[Item]):
    """The items of `source`, in order; an error in it is raised where the next item is asked for."""

    def __init__(self, source: Iterator[Item], depth: int) -> None:
        self._queue: queue.Queue[Item | _End] = queue.Queue(depth)
        self._stopping = threading.Event()
        self._source = source
        self._end: _End | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        if self._end is None:
            item = self._queue.get()
            if not isinstance(item, _End):
                return item
            self._end = item

        if self._end.error is not None:
            raise self._end.error

        raise StopIteration

    def close(self) -> None:
        """Ends the thread and the source; items not yet taken are lost."""
        self._stopping.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

        self._end = self._end or _End(None)

    def _run(self) -> None:
        try:
            for item in self._source:
                self._put(item)
                if self._stopping.is_set():
                    break

            self._put(_End(None))
        except BaseException as error:  # handed to the consumer, whatever it is
            self._put(_End(error))
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()

    def _put(self, item: "Item | _End") -> None:
        while not self._stopping.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error
