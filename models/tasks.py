"""What is predicted."""

from typing import Literal

from pydantic import Field

from data.settings import Settings


class TaskConfig(Settings):
    """One feedback label."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name in tables, logs and metrics."""
    kind: Literal["binary", "regression"]
    """binary: cross entropy on the logit, evaluated by NE. regression: squared error, evaluated by MSE."""
    label: str
    """Column of the label; null = missing, which trains and evaluates nothing for this task."""
    auxiliary: bool = False
    """true: trained, not evaluated."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of this task's loss in the sum."""

    @property
    def binary(self) -> bool:
        """Whether the prediction is a probability."""
        return self.kind == "binary"
