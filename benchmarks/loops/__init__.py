"""Every head in its plainest form: a `torch.nn.Linear` for each layer of each expert, gate and tower, and loops.

What the batched heads are compared with: in values and gradients (tests/models/test_heads.py) and in speed
(`adatt bench heads`). Written from the papers' definitions as published implementations are: experts one after another,
their outputs stacked, one product with the stack for each gate. Parameters have the names that
`models.per_layer_state.per_module_state` gives, so its result loads as it is. ReLU only, no dropout.
"""

from collections.abc import Callable

from torch import nn

from benchmarks.loops.adashare import AdaShareLoop
from benchmarks.loops.aitm import AITMLoop
from benchmarks.loops.branched import BranchedLoop
from benchmarks.loops.dselect_k import DSelectKLoop
from benchmarks.loops.gated import AdaTTLoop, MMoELoop, PLELoop
from benchmarks.loops.learning_to_branch import LearningToBranchLoop
from benchmarks.loops.mrn import MRNLoop
from benchmarks.loops.mtan import MTANLoop
from benchmarks.loops.networks import CrossStitchLoop, TrunkLoop
from benchmarks.loops.pepnet import PEPNetLoop
from benchmarks.loops.sluice import SluiceLoop
from benchmarks.loops.snr import SNRLoop
from benchmarks.loops.soft_ordering import SoftOrderingLoop
from benchmarks.loops.stem import STEMLoop
from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.base import Head, HeadConfig
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

LOOPS: dict[type[HeadConfig], Callable[..., nn.Module]] = {
    SharedBottomConfig: lambda config, features, tasks: TrunkLoop(config, features, tasks, num_trunks=1),
    SingleTaskConfig: lambda config, features, tasks: TrunkLoop(config, features, tasks, num_trunks=tasks),
    CrossStitchConfig: CrossStitchLoop,
    MMoEConfig: lambda config, features, tasks: MMoELoop(config, features, tasks, config.experts, [config.end_to_end]),
    MLMMoEConfig: lambda config, features, tasks: MMoELoop(config, features, tasks, config.experts, config.levels),
    PLEConfig: lambda config, features, tasks: PLELoop(config, features, tasks, config.shared_experts),
    AdaTTConfig: lambda config, features, tasks: AdaTTLoop(config, features, tasks, config.shared_experts),
    AdaTTSpConfig: lambda config, features, tasks: AdaTTLoop(config, features, tasks, shared_experts=0),
    MTANConfig: MTANLoop,
    SoftOrderingConfig: SoftOrderingLoop,
    SluiceConfig: SluiceLoop,
    SNRConfig: SNRLoop,
    DSelectKConfig: DSelectKLoop,
    AITMConfig: AITMLoop,
    AdaShareConfig: AdaShareLoop,
    LearningToBranchConfig: LearningToBranchLoop,
    PEPNetConfig: PEPNetLoop,
    STEMConfig: STEMLoop,
    BranchedConfig: BranchedLoop,
    MRNConfig: MRNLoop,
}


def build_loop(config: HeadConfig, num_features: int, num_tasks: int) -> nn.Module:
    """The loop version of a head."""
    return LOOPS[type(config)](config, num_features, num_tasks)


def share_noise(head: Head, loop: nn.Module) -> None:
    """Gives the loop version the head's noise of this step, and what follows from the samples."""
    of_head = dict(head.named_buffers())
    for name, buffer in loop.named_buffers():
        buffer.copy_(of_head[name])
