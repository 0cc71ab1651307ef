"""A head's weights in parts that carry names: of tasks and experts, not numbers.

    levels.0.experts.3.0.weight   →   levels.0.experts.like 0.0.weight
    levels.0.gates.1.weight       →   levels.0.gates.like over click 0, like 0, shared 0.weight
    towers.1.0.weight             →   towers.like.0.weight

So two heads of one kind have in common what their tasks have in common, in whatever order these stand.
"""

from collections.abc import Sequence

from models.heads.base import FusionNames, Head
from models.heads.gated import FusionLevel
from models.per_layer_state import State, parts


def named_parts(head: Head, tasks: Sequence[str], tensors: State) -> State:
    """Views into `tensors`, which belong to the parameters of the head by their names."""
    levels = head.fusion_names(tasks)
    modules = dict(head.named_modules())
    named = {}
    for name, part in parts(head, tensors):
        fields = name.split(".")
        level = modules.get(".".join(fields[:2]))
        if isinstance(level, FusionLevel):
            fields[3] = _of_level(level, levels[int(fields[1])], fields[2], int(fields[3]))
        else:
            fields = _by_task(head, fields, tasks)
        named[".".join(fields)] = part
    return named


def _of_level(level: FusionLevel, names: FusionNames, kind: str, number: int) -> str:
    if kind == "experts":
        return names.experts[number]
    if kind == "gates":
        seen = ", ".join(names.experts[expert] for expert in level.plan.sees[number])
        return f"{names.units[number]} over {seen}"
    return names.units[number]


def _by_task(head: Head, fields: list[str], tasks: Sequence[str]) -> list[str]:
    """Of what is not part of a level that is gated; what belongs to no task stays as it is."""
    kind, number, *rest = fields
    if kind == "levels" and (branches := head.branch_names(int(number), tasks)):
        return [kind, number, branches[int(rest[0])], *rest[1:]]
    if kind in head.of_all_tasks:
        return [*fields, f"of {', '.join(tasks)}"]
    if kind in head.of_level_and_task:
        return [kind, number, tasks[int(rest[0])], *rest[1:]]
    return [kind, tasks[int(number)], *rest] if kind in head.of_task else fields
