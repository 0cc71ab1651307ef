"""Tasks to balance."""

from models.balancers.settings import Tasks
from models.tasks import TaskConfig


def binary_tasks(names: str, width: int = 2) -> Tasks:
    """A task for each letter, on a shared representation of this width."""
    return Tasks(tuple(TaskConfig(name=name, kind="binary", label=name) for name in names), width)
