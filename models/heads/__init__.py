"""The multi-task heads, by the name that `model.head` gives them."""

from typing import Annotated, get_args

from pydantic import Field

from models.heads.adatt import AdaTTConfig
from models.heads.adatt_sp import AdaTTSpConfig
from models.heads.base import HeadConfig
from models.heads.cross_stitch import CrossStitchConfig
from models.heads.ml_mmoe import MLMMoEConfig
from models.heads.mmoe import MMoEConfig
from models.heads.ple import PLEConfig
from models.heads.shared_bottom import SharedBottomConfig
from models.heads.single_task import SingleTaskConfig

AnyHeadConfig = Annotated[
    SharedBottomConfig
    | SingleTaskConfig
    | MMoEConfig
    | MLMMoEConfig
    | PLEConfig
    | CrossStitchConfig
    | AdaTTSpConfig
    | AdaTTConfig,
    Field(discriminator="head"),
]
"""Every head: one entry here, one file beside this one."""
HEADS: dict[str, type[HeadConfig]] = {
    head.model_fields["head"].default: head for head in get_args(get_args(AnyHeadConfig)[0])
}
