"""Which part of the program may use which: arrows point one way only, as docs/architecture.md draws them."""

import ast
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest

from tests.code_shape import PACKAGES, measure, product_modules

ROOT = Path(__file__).parents[1]
MODULES = product_modules(ROOT)

# From the bottom up: a room may use those of lines above its own, and those beside it on its line.
LAYERS = (
    ("data",),
    ("models",),
    ("trainer.errors", "trainer.clock", "trainer.console", "trainer.process", "trainer.installation"),
    ("trainer.distributed",),
    ("trainer.sharding",),
    ("trainer.config",),
    ("trainer.build_model", "trainer.batches", "trainer.step"),
    ("trainer.checkpoint", "trainer.run", "trainer.datasets"),
    ("trainer.warm_start",),
    ("trainer.evaluation", "trainer.logging", "trainer.prediction"),
    ("trainer.data_faults", "trainer.milestones"),
    ("trainer.train", "trainer.session", "trainer.inputs", "trainer.open_run", "trainer.announce", "trainer.growth"),
    ("trainer.analysis", "trainer.export", "trainer.proposal", "trainer.launching"),
    ("benchmarks",),
    ("trainer.planning", "trainer.studies"),
    ("trainer.cli", "trainer.__main__"),
)


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> set[str]:
    """Names of the modules that are imported with `path`; an import inside a function waits until it is needed."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return names


IMPORTS = {_name(path): _imported(path) for path in MODULES}


@cache
def _reached(module: str) -> frozenset[str]:
    """Every module of the product that is imported with `module`, and the outside packages that these import."""
    reached, waiting = {module}, [module]
    while waiting:
        name = waiting.pop()
        for imported in IMPORTS.get(name, ()):
            inside = imported.split(".")[0] in PACKAGES
            found = imported if inside else imported.split(".")[0]
            if found not in reached and (found in IMPORTS or not inside):
                reached.add(found)
                waiting.append(found)
    return frozenset(reached)


def _is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize(
    ("starts", "unreached"),
    [
        ("data", ("torch.distributed", "torchrec.distributed", "models", "trainer")),
        ("models", ("pyarrow", "trainer", "launch")),
        ("trainer.train", ("data.importers", "data.synthetic", "trainer.analysis")),
        ("trainer.analysis.audit", ("torchrec",)),
        ("trainer", ("launch",)),
        ("launch", ("data", "models", "torchrec")),
    ],
)
def test_a_room_does_not_reach(starts: str, unreached: tuple[str, ...]) -> None:
    found = [
        f"{module} reaches {reached}"
        for module in IMPORTS
        if _is_in(module, starts)
        for reached in _reached(module)
        if any(_is_in(reached, room) for room in unreached)
    ]
    assert not found


def test_no_arrow_points_upwards() -> None:
    height = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

    def layer(module: str) -> int | None:
        return next((level for room, level in height.items() if _is_in(module, room)), None)

    upwards = [
        f"{module} imports {imported}"
        for module, names in IMPORTS.items()
        for imported in names & IMPORTS.keys()
        if (above := layer(imported)) is not None and (below := layer(module)) is not None and above > below
    ]
    assert not upwards


def test_folders_and_modules_stay_small() -> None:
    figures = measure(MODULES)
    assert max(figures.modules.values()) <= 16
    assert max(figures.module_lines) <= 300
    assert max(figures.function_lines) <= 60


def test_an_installation_has_all_packages() -> None:
    """An image is not installed in place: a folder that setup.cfg does not name would not be there."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    named = set(config["options"]["packages"].split())
    assert named == {_name(path) for path in MODULES if path.name == "__init__.py"}
