"""The checkpoints of a run, each under its samples, wherever they are: on a disk or in a store.

What both places do alike is here: what a checkpoint says of itself, whether it is whole, and which ones may go.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

from torch.distributed.checkpoint import FileSystemWriter

from data.storage.stored_files import reason
from trainer.checkpoint.safe_load import METADATA_FILE, SafeReader
from trainer.checkpoint.state import FileRecord, State
from trainer.errors import CheckpointError, RunError

STATE_FILE = "state.json"


class CheckpointFolder(ABC):
    """Raises CheckpointError for what is damaged, and RunError where a store does not answer."""

    @abstractmethod
    def where(self, name: str = "", file: str = "") -> str:
        """What messages call the folder, a checkpoint or a file of it."""

    @abstractmethod
    def names(self) -> list[str]:
        """Finished checkpoints, oldest first, whole or damaged."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is such a finished checkpoint, without waiting for a store: among those seen or made here."""

    @abstractmethod
    def begin(self, name: str, segment: int) -> str:
        """Makes way for a save of start `segment`; what sets its files apart from those of other saves."""

    @abstractmethod
    def writer(self, name: str, prefix: str) -> FileSystemWriter:
        """For this rank's tensors, and on rank 0 the index."""

    @abstractmethod
    def written(self, writer: FileSystemWriter, name: str, rank: int) -> dict[str, FileRecord]:
        """Length and digest of the files that a rank has written."""

    @abstractmethod
    def publish(self, name: str, state: State) -> None:
        """Makes what has been written visible as a checkpoint, in one step."""

    @abstractmethod
    def abandon(self, name: str, prefix: str) -> None:
        """Removes what a save has written that failed, as far as that is possible."""

    @abstractmethod
    def why_failed(self, name: str, cause: str) -> str:
        """Why a save has failed, in words."""

    @abstractmethod
    def read_text(self, name: str, file: str) -> str:
        """A small file of a checkpoint; raises OSError or ValueError."""

    @abstractmethod
    def replace_state(self, name: str, state: State) -> None:
        """Writes a checkpoint's state anew, in one step."""

    @abstractmethod
    def check_file(self, name: str, file: str, expected: FileRecord) -> None:
        """Raises CheckpointError if a file is not as it was written."""

    @abstractmethod
    def reader(self, name: str, index: str) -> SafeReader:
        """For the tensors of a checkpoint."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes a checkpoint; cut short, it leaves nothing that is taken for one."""

    @abstractmethod
    def set_aside(self, name: str) -> None:
        """Takes a damaged checkpoint out of the way, and leaves it for people to see."""

    @abstractmethod
    def remove_unfinished(self) -> None:
        """Removes what saves and deletions have left that were cut short."""

    def state(self, name: str) -> State:
        """What a checkpoint says of itself; raises CheckpointError if that is damaged."""
        where = self.where(name, STATE_FILE)
        try:
            state = State.from_json(self.read_text(name, STATE_FILE))
            if str(state.samples) != name:
                raise ValueError(f"is of {state.samples} samples, not of {name}")
        except OSError as error:
            raise CheckpointError(f"{where}: cannot be read ({reason(error)})") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{where}: damaged ({error})") from error

        return state

    def check_files(self, name: str, state: State, files: list[str]) -> None:
        """Raises CheckpointError if one of these files of a checkpoint is not as it was written."""
        for file in files:
            self.check_file(name, file, state.files[file])

    def check_index(self, name: str) -> State:
        """What a checkpoint says of itself.

        Raises CheckpointError if its index is none, or points outside it.
        """
        state = self.state(name)
        index = index_of(state)
        if index is None:
            raise CheckpointError(f"{self.where(name, STATE_FILE)}: does not list {METADATA_FILE}")

        self.check_file(name, index, state.files[index])
        where = self.where(name, index)
        try:
            targets = {entry.relative_path for entry in self.reader(name, index).read_metadata().storage_data.values()}
        except OSError as error:  # its length and digest have just been found right
            raise RunError(f"{where}: cannot be read ({reason(error)}); start again when it can") from error
        except Exception as error:  # whatever unpickling foreign bytes may raise
            raise CheckpointError(f"{where}: not the index of a checkpoint ({error})") from error

        for target in sorted(targets - set(state.files)):
            raise CheckpointError(f"{where}: points to {target!r}, which is no file of this checkpoint")

        return state

    def pin(self, name: str) -> None:
        """Keeps an existing checkpoint for good."""
        state = self.state(name)
        if not state.pinned:
            self.replace_state(name, replace(state, pinned=True))

    def thin_out(self, keep: int) -> None:
        """Deletes the oldest checkpoints beyond the `keep` newest; pinned ones stay, and do not count."""
        for name in self._loose()[:-keep]:
            self.delete(name)

    def clear_after(self, samples: int) -> None:
        """Sets the checkpoints after `samples` aside, all damaged, so that theirs can be saved again."""
        for name in self.names():
            if int(name) > samples:
                self.set_aside(name)
        self.remove_unfinished()

    def _loose(self) -> list[str]:
        """Checkpoints that may be deleted, oldest first; a damaged one is left for people to see."""

        def is_loose(name: str) -> bool:
            try:
                return not self.state(name).pinned
            except CheckpointError:
                return False

        return [name for name in self.names() if is_loose(name)]


def index_of(state: State) -> str | None:
    """The name of a checkpoint's index; a store has another one for each save."""
    return next((name for name in state.files if name.endswith(METADATA_FILE)), None)
