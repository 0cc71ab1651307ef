"""What a store answers badly is asked for again; what a disk does not read, or will never be there, is not."""

import pytest
from pyarrow import fs

import data.storage.retries
from data.storage.retries import WAITS_SECONDS, retried

DISK = fs.LocalFileSystem()
STORE = fs.SubTreeFileSystem("/", DISK)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(data.storage.retries.time, "sleep", slept.append)
    return slept


class Answers:
    """Raises the errors one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.left = list(errors)

    def __call__(self) -> str:
        if self.left:
            raise self.left.pop(0)
        return "answer"


def test_a_store_is_asked_again_with_growing_waits(waits: list[float]) -> None:
    assert retried(STORE, Answers(OSError("SlowDown"), OSError("cut"), OSError("503"))) == "answer"
    assert waits == list(WAITS_SECONDS[:3])


def test_in_the_end_the_last_error_is_raised(waits: list[float]) -> None:
    errors = [OSError(str(number)) for number in range(len(WAITS_SECONDS) + 1)]
    with pytest.raises(OSError, match=f"^{len(WAITS_SECONDS)}$"):
        retried(STORE, Answers(*errors))
    assert waits == list(WAITS_SECONDS)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("gone"),
        PermissionError("no"),
        OSError("AWS Error ACCESS_DENIED during GetObject"),
        ValueError(),
    ],
)
def test_what_stays_so_is_not_asked_for_again(error: Exception, waits: list[float]) -> None:
    with pytest.raises(type(error)):
        retried(STORE, Answers(error))
    assert waits == []


def test_a_disk_is_asked_once(waits: list[float]) -> None:
    with pytest.raises(OSError, match="cut"):
        retried(DISK, Answers(OSError("cut")))
    assert waits == []
