"""AdaShare (Sun, Panda, Feris and Saenko, NeurIPS 2020): each task keeps or skips each block of one residual network.

    x⁰      = φ(V x + c)                            one encoder for all tasks
    y_t^l   = φ(x_t^l + B_l(x_t^l))                 l = 0 … L - 1: a level is a block; the last layer of B_l is linear
    x_t^l+1 = k_{t,l} y_t^l + (1 - k_{t,l}) x_t^l   k_{t,l}: 1 keeps the block, 0 skips it (`related.choices`)
    α_{t,l} = softmax of the two scores of (t, l)   the probability of keeping

    penalties:  sparsity · Σ_{t,l} -ln(1 - α_{t,l}) / L                        of blocks that are learned
                sharing · Σ_{s<t} Σ_l (L - l) / L · |α_{s,l} - α_{t,l}|        first blocks above all

Curriculum: in the warm-up every block is kept; then the last block's choices are learned, and one more block's after
every `block_samples`. In training k is sampled, in evaluation a block is kept where α ≥ 1/2.

Blocks were convolutions with batch normalisation. In the paper scores and weights are learned in turn, on two halves
of the data, and the network once more with what was chosen; here together, in one pass over the log. Its sparsity is
Σ ln α, which has no lower bound; this one is the authors' code's.

Shapes: B rows, F features, T tasks, L blocks, W their width, R rows of all tasks.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from data.settings import Count
from models.heads.base import FusionNames, Head, Layers, Shares
from models.heads.related.choices import Choices, SamplingConfig
from models.layers import ACTIVATIONS, GroupedLinear, GroupedMLP, Towers

KEEP, SKIP = 0, 1
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class AdaShareConfig(SamplingConfig):
    """Residual blocks, each of which every task keeps or skips."""

    head: Literal["adashare"] = "adashare"
    levels: tuple[Layers, ...] = Field(default=((128,), (128,)), min_length=1)
    block_samples: Count = Field(default=100_000, ge=0)
    """Samples after which the choices of one more block are learned, from the last block; 0: of all at once."""
    sparsity: Weight = 0.0001
    """Weight of the penalty on keeping blocks; 0: none. With the authors' 0.001 tasks of the quickstart skip all."""
    sharing: Weight = 0.005
    """Weight of the penalty where tasks keep different blocks; 0: none."""

    def build(self, num_features: int, tasks: Sequence[str]) -> Head:
        """The head; raises ValueError if blocks end in different widths."""
        if len({level[-1] for level in self.levels}) > 1:
            raise ValueError(
                f"model.levels = {[list(level) for level in self.levels]}: adashare adds each level's output to its "
                "input, so all must end in one width"
            )
        return AdaShare(self, num_features, len(tasks))

    def learned_at(self, samples: int) -> int:
        """Number of blocks whose choices are learned in the step that begins at `samples`."""
        if samples < self.warmup_samples:
            return 0
        if self.block_samples == 0:
            return len(self.levels)
        return min(1 + (samples - self.warmup_samples) // self.block_samples, len(self.levels))


class AdaShare(Head):
    """The head. Kept for backward beside what blocks keep: their inputs and outputs, for each task."""

    of_all_tasks = frozenset({"policy"})
    is_learned_L: torch.Tensor
    """Whether the choices of a block are learned; otherwise it is kept."""
    weight_L: torch.Tensor
    """L - l."""

    def __init__(self, config: AdaShareConfig, num_features: int, num_tasks: int) -> None:
        super().__init__()
        self.config = config
        self.num_tasks = num_tasks
        num_blocks, width = len(config.levels), config.levels[0][-1]
        self.encoder = GroupedMLP([1], num_features, (width,), config.activation, config.dropout)
        self.blocks = nn.ModuleList(Block(layers, config) for layers in config.levels)
        self.policy = Choices(config, num_tasks, num_blocks, 2)
        self.shares = Shares()
        self.towers = Towers(num_tasks, width, config.tower, config.activation, config.dropout)
        self.register_buffer("is_learned_L", torch.ones(num_blocks, dtype=torch.bool), persistent=False)
        self.register_buffer("weight_L", torch.arange(num_blocks, 0, -1), persistent=False)

    @property
    def flops_per_row(self) -> int:
        """Of the blocks from the second on, for all tasks but one: there each task has an input of its own."""
        layers = [part for part in self.blocks[1:].modules() if isinstance(part, GroupedLinear)]
        return (self.num_tasks - 1) * sum(layer.flops_per_row for layer in layers)

    def begin(self, samples: int, seed: int) -> None:
        """Draws the noise; temperature and curriculum follow from `samples`."""
        self.policy.begin(seed, self.config.temperature_at(samples))
        first_learned = len(self.blocks) - self.config.learned_at(samples)
        self.is_learned_L.copy_(torch.arange(len(self.blocks)) >= first_learned)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """logits_BT."""
        keep_TL = self.keep()
        self.shares(keep_TL.expand(features_BF.shape[0], -1, -1))
        x_BTW = self.encoder(features_BF)  # one T for all tasks, until the first block is kept or skipped
        for block, keep_T in zip(self.blocks, keep_TL.unbind(dim=1), strict=True):
            y_BTW = block(x_BTW.flatten(0, 1)).view(x_BTW.shape)
            x_BTW = torch.lerp(x_BTW, y_BTW, keep_T[:, None].to(y_BTW.dtype))
        return self.towers(x_BTW)

    def keep(self) -> torch.Tensor:
        """keep_TL: 0 and 1 in evaluation."""
        chosen_TL: torch.Tensor = self.policy()[..., KEEP]
        return torch.where(self.is_learned_L, chosen_TL, 1.0) if self.training else chosen_TL

    def penalties(self, logits_BT: torch.Tensor, weights_B: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """`sparsity` and `sharing`."""
        log_TLC = self.policy.scores.log_softmax(dim=2)
        penalties = {}
        if self.config.sparsity:
            skipping_TL = log_TLC[..., SKIP] * self.is_learned_L
            penalties["sparsity"] = -self.config.sparsity / len(self.blocks) * skipping_TL.sum()
        if self.config.sharing:
            alpha_TL = log_TLC[..., KEEP].exp()
            apart_TTL = (alpha_TL[:, None] - alpha_TL).abs()
            each_pair_once = self.config.sharing / (2 * len(self.blocks))
            penalties["sharing"] = each_pair_once * (apart_TTL * self.weight_L).sum()
        return penalties

    def fusion_names(self, tasks: Sequence[str]) -> list[FusionNames]:
        """The blocks that each task keeps."""
        return [FusionNames(list(tasks), [f"block {number}" for number in range(len(self.blocks))])]


class Block(nn.Module):
    """A residual block."""

    def __init__(self, layers: Sequence[int], config: AdaShareConfig) -> None:
        super().__init__()
        *hidden, width = layers
        self.inner = GroupedMLP([1], width, hidden, config.activation, config.dropout)
        self.last = GroupedLinear([1], hidden[-1] if hidden else width, width)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_RW: torch.Tensor) -> torch.Tensor:
        """y_RW."""
        added_RW = self.last(self.inner(x_RW)).squeeze(1)
        y_RW: torch.Tensor = self.dropout(self.activation(x_RW + added_RW))
        return y_RW
