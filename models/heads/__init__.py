"""The multi-task heads, by the name that `model.head` gives them."""

from typing import Annotated, get_args

from pydantic import Field

from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.base import HeadConfig
from models.heads.cross_stitch import CrossStitchConfig
from models.heads.mmoe import MLMMoEConfig, MMoEConfig
from models.heads.ple import PLEConfig
from models.heads.related.adashare import AdaShareConfig
from models.heads.related.aitm import AITMConfig
from models.heads.related.branched import BranchedConfig
from models.heads.related.dselect_k import DSelectKConfig
from models.heads.related.learning_to_branch import LearningToBranchConfig
from models.heads.related.mrn import MRNConfig
from models.heads.related.mtan import MTANConfig
from models.heads.related.pepnet import PEPNetConfig
from models.heads.related.sluice import SluiceConfig
from models.heads.related.snr import SNRConfig
from models.heads.related.soft_ordering import SoftOrderingConfig
from models.heads.related.stem import STEMConfig
from models.heads.shared_bottom import SharedBottomConfig, SingleTaskConfig

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
    | AITMConfig
    | AdaShareConfig
    | LearningToBranchConfig
    | PEPNetConfig
    | STEMConfig
    | BranchedConfig
    | MRNConfig,
    Field(discriminator="head"),
]
"""Every head: one entry here, its class in a file beside this one or in `related`."""
HEADS: dict[str, type[HeadConfig]] = {
    head.model_fields["head"].default: head for head in get_args(get_args(AnyHeadConfig)[0])
}
