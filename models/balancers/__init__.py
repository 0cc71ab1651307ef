"""How the losses of several tasks become one update: learned weights, and gradients made to agree."""

from typing import Annotated, get_args

from pydantic import Field

from models.balancers.by_gradients import (
    CAGradConfig,
    ConstantConfig,
    GradDropConfig,
    GradNormConfig,
    ImtlGConfig,
    MgdaConfig,
    NashMtlConfig,
    PCGradConfig,
)
from models.balancers.by_losses import DwaConfig, FamoConfig, ImtlLConfig, UncertaintyConfig
from models.balancers.rotograd import RotoGradConfig
from models.balancers.settings import BalanceConfig
from models.balancers.small_heads import SmallHeadsConfig

AnyBalanceConfig = Annotated[
    ConstantConfig
    | UncertaintyConfig
    | DwaConfig
    | ImtlLConfig
    | FamoConfig
    | GradNormConfig
    | PCGradConfig
    | MgdaConfig
    | GradDropConfig
    | CAGradConfig
    | ImtlGConfig
    | NashMtlConfig
    | SmallHeadsConfig
    | RotoGradConfig,
    Field(discriminator="method"),
]
"""Every method: one entry here."""
METHODS: dict[str, type[BalanceConfig]] = {
    method.model_fields["method"].default: method for method in get_args(get_args(AnyBalanceConfig)[0])
}
