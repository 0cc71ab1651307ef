"""The multi-task heads, by the name that `model.head` gives them."""

from typing import Annotated, get_args

from pydantic import Field

from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.aitm import AITMConfig
from models.heads.base import HeadConfig
from models.heads.cross_stitch import CrossStitchConfig
from models.heads.dselect_k import DSelectKConfig
from models.heads.mmoe import MLMMoEConfig, MMoEConfig
from models.heads.mtan import MTANConfig
from models.heads.ple import PLEConfig
from models.heads.shared_bottom import SharedBottomConfig, SingleTaskConfig
from models.heads.sluice import SluiceConfig
from models.heads.snr import SNRConfig
from models.heads.soft_ordering import SoftOrderingConfig

AnyHeadConfig = Annotated[
    SharedBottomConfig
    | SingleTaskConfig
    | MMoEConfig
    | MLMMoEConfig
    | PLEConfig
    | CrossStitchConfig
    | AdaTTSpConfig
    | AdaTTConfig
    | MTANConfig
    | SoftOrderingConfig
    | SluiceConfig
    | SNRConfig
    | DSelectKConfig
    | AITMConfig,
    Field(discriminator="head"),
]
"""Every head: one entry here, its class in a file beside this one."""
HEADS: dict[str, type[HeadConfig]] = {
    head.model_fields["head"].default: head for head in get_args(get_args(AnyHeadConfig)[0])
}
