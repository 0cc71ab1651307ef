"""Single-task control: every task has a trunk and a tower of its own, so none learns from another in the head.

The embedding tables are shared with the other tasks even so.
"""

from typing import Literal

from models.heads.base import Head, HeadConfig
from models.heads.shared_bottom import TrunkHead


class SingleTaskConfig(HeadConfig):
    """A trunk and a tower for each task."""

    head: Literal["single_task"] = "single_task"

    def build(self, num_features: int, num_tasks: int) -> Head:
        """The head."""
        return TrunkHead(self, num_features, num_tasks, num_trunks=num_tasks)
