import itertools
import threading
from collections.abc import Iterator

import pytest

from data.prefetch import Prefetcher

WAIT_S = 30  # only a broken test waits that long


class Gate:
    """A source whose items come one for each permit."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self.closed = threading.Event()
        self.produced = 0

    def permit(self, items: int = 1) -> None:
        self._permits.release(items)

    def items(self) -> Iterator[int]:
        try:
            for number in itertools.count():
                assert self._permits.acquire(timeout=WAIT_S)
                self.produced += 1
                yield number
        finally:
            self.closed.set()


def failing(items: int, error: BaseException) -> Iterator[int]:
    yield from range(items)
    raise error


@pytest.mark.parametrize("depth", [1, 2, 10])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_items_come_in_order(depth: int, count: int) -> None:
    items = Prefetcher(iter(range(count)), depth)
    assert list(items) == list(range(count))
    assert list(items) == []
    items.close()


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_is_raised_in_its_place_and_again(error: BaseException) -> None:
    items = Prefetcher(failing(2, error), depth=5)
    assert [next(items), next(items)] == [0, 1]
    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            next(items)
        assert raised.value is error
    items.close()


def test_closing_while_full_ends_the_thread_and_closes_the_source() -> None:
    gate = Gate()
    gate.permit(10)
    items = Prefetcher(gate.items(), depth=2)
    assert next(items) == 0
    items.close()
    assert gate.closed.is_set()
    assert gate.produced <= 10
    assert "prefetch" not in [thread.name for thread in threading.enumerate()]
    assert next(items, None) is None
    items.close()


def test_no_more_than_depth_items_are_prepared_ahead() -> None:
    gate = Gate()
    gate.permit(100)
    items = Prefetcher(gate.items(), depth=3)
    for taken in range(1, 20):
        next(items)
        assert gate.produced <= taken + 3 + 1  # the queue, and the one that waits for a place in it
    items.close()


def test_the_source_is_closed_after_its_end_and_after_an_error() -> None:
    closed = []

    def source(fails: bool) -> Iterator[int]:
        try:
            yield 1
            if fails:
                raise ValueError("bad file")
        finally:
            closed.append(fails)

    Prefetcher(source(fails=False), depth=2).close()
    items = Prefetcher(source(fails=True), depth=2)
    with pytest.raises(ValueError, match="bad file"):
        list(items)
    items.close()
    assert closed == [False, True]


def test_an_iterator_without_close_is_fine() -> None:
    items = Prefetcher(iter([1, 2]), depth=1)
    assert next(items) == 1
    items.close()
