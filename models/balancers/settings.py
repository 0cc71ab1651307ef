"""What the configs of all methods have in common."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from data.settings import Settings
from models.balancers.method import Method
from models.heads.base import HeadConfig
from models.tasks import TaskConfig


@dataclass(frozen=True)
class Tasks:
    """What a method may need to know of the tasks."""

    configs: tuple[TaskConfig, ...]
    width: int
    """Of the shared representation."""

    @property
    def is_binary(self) -> list[bool]:
        """Of each task."""
        return [task.binary for task in self.configs]


class BalanceConfig(Settings):
    """How the tasks are balanced. A key that the method does not use is an error."""

    unused: ClassVar[tuple[str, ...]] = ()
    """Keys that all methods have and this one does not use."""

    at: Literal["features", "trunk"] = "features"
    """Where the gradients of the tasks meet, so what counts as shared. features: the tables, below the head. trunk: the
    trunk of shared_bottom or mrn as well. Not for methods by losses, which look at no gradients."""
    every: int = Field(default=1, gt=0)
    """Weights are renewed at every so many steps, and kept in between. Not for uncertainty and imtl_l, which learn
    theirs in every step, nor for small_heads."""

    def check(self, head: HeadConfig, tasks: tuple[TaskConfig, ...]) -> None:  # noqa: ARG002
        """Raises ValueError if the method does not use a key, or does not fit the head or the tasks."""
        fields = type(self).model_fields
        for key in self.unused:
            if getattr(self, key) != fields[key].default:
                method = fields["method"].default
                raise ValueError(f"key 'balance.{key}' is not used by method {method!r}; remove it")

    @property
    def looks_at_shared(self) -> bool:
        """Whether the method works on the shared representation, so that something below must be trained."""
        return True

    @abstractmethod
    def build(self, tasks: Tasks) -> Method:
        """The method."""
