"""The weights of a head as a network of one `torch.nn.Linear` per layer would hold them, and back.

docs/heads.md lists the names. A layer that stands alone has its weights as `torch.nn.Linear` does: weight [out, in],
bias [out].
"""

from collections.abc import Iterator

import torch

from models.heads.base import Head
from models.heads.gated import FusionLevel
from models.layers import GroupedLinear

State = dict[str, torch.Tensor]


def per_module_state(head: Head) -> State:
    """The head's weights under the names of single layers; copies."""
    return {name: part.detach().clone() for name, part in parts(head, dict(head.named_parameters()))}


def per_module_gradients(head: Head) -> State:
    """The gradients of the same; those of parameters without one are left out."""
    gradients: State = {}
    for name, tensor in head.named_parameters():
        if tensor.grad is not None:
            gradients[name] = tensor.grad
    return {name: part.clone() for name, part in parts(head, gradients)}


def load_per_module_state(head: Head, state: State) -> None:
    """Copies weights of single layers into the head.

    ValueError names what is missing, too much or of another shape; the head is as it was then.
    """
    tensors = {name: tensor.detach() for name, tensor in head.named_parameters()}
    own = dict(parts(head, tensors))

    for name in sorted(own.keys() ^ state.keys()):
        raise ValueError(f"weights {name!r} are {'missing' if name in own else 'not part of this head'}")

    for name, part in own.items():
        if part.shape != state[name].shape:
            found = list(state[name].shape)
            expected = list(part.shape)
            raise ValueError(f"weights {name!r} are {found}; this head has {expected}")

    for name, part in own.items():
        part.copy_(state[name])


def parts(head: Head, tensors: State) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, view) of every single layer's weight and bias, native weights and stitches, for those in `tensors`."""
    modules = dict(head.named_modules())
    num_hidden = sum(path.startswith("towers.hidden.layers.") for path in modules)

    for path, tensor in tensors.items():
        owner, _, kind = path.rpartition(".")
        module = modules[owner]
        if isinstance(module, GroupedLinear):
            names = _names(owner, module, num_hidden)
            for name, part in zip(names, tensor.split(_rows(owner, module)), strict=True):
                yield f"{name}.{kind}", part.flatten(0, 1)
        elif isinstance(module, FusionLevel):
            counts = module.plan.experts_per_unit[: module.num_fused]
            for unit, part in enumerate(tensor.split(counts)):
                yield f"{path}.{unit}", part
        else:
            yield path, tensor


def _rows(path: str, module: GroupedLinear) -> list[int]:
    """Layers of a grouped one that make a single one: all rows of a gate; one of any other network."""
    return module.counts if _is_gate(path) else [1] * sum(module.counts)


def _names(path: str, module: GroupedLinear, num_hidden: int) -> list[str]:
    """`levels.0.experts.layers.1` → `levels.0.experts.NUMBER.1`, and so on."""
    if _is_gate(path):
        return [f"{path}.{unit}" for unit in range(len(module.counts))]

    stem, _, layer = ("towers", "", str(num_hidden)) if path == "towers.logit" else path.partition(".layers.")
    stem = stem.removesuffix(".hidden")
    return [f"{stem}.{number}.{layer}".removesuffix(".") for number in range(sum(module.counts))]


def _is_gate(path: str) -> bool:
    return path.endswith((".gates", ".codes"))
