"""The multi-task heads, by the name that `model.head` gives them."""

from typing import Annotated

from pydantic import Field

from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.shared_bottom import SharedBottomConfig

AnyHeadConfig = Annotated[AdaTTConfig | AdaTTSpConfig | SharedBottomConfig, Field(discriminator="head")]
"""Every head: one entry here, one file beside this one."""
