"""How the product's code is laid out, in figures: `python -m tests.code_shape [PATH…]`.

Without a path: the four packages and the benchmarks. A path may be a folder or a file, so that one room can be measured
by itself. docs/contributing.md says what the figures should be.
"""

import ast
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

PACKAGES = ("data", "models", "trainer", "launch", "benchmarks")
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.FunctionDef, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Module)


@dataclass
class Figures:
    """What is counted over all modules."""

    modules: Counter[Path] = field(default_factory=Counter)
    """Number of modules in each folder."""
    module_lines: list[int] = field(default_factory=list)
    function_lines: list[int] = field(default_factory=list)
    """From the first to the last line of each function's body, its docstring left out."""
    statement_nodes: list[int] = field(default_factory=list)
    """Syntax nodes of each simple statement inside a function."""
    docstring_words: list[int] = field(default_factory=list)
    blank_lines: int = 0
    """Blank lines inside the bodies of functions."""
    comments: int = 0
    """Comments that have a line of their own, in modules."""
    comprehensions: int = 0


def product_modules(root: Path) -> list[Path]:
    """Every module of the packages in `root`."""
    return [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


def measure(paths: Sequence[Path]) -> Figures:
    """The figures of some modules."""
    figures = Figures()
    for path in paths:
        source = path.read_text()
        tree = ast.parse(source)
        figures.modules[path.parent] += path.name != "__init__.py"
        figures.module_lines.append(source.count("\n"))
        figures.comments += _own_line_comments(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                _add_function(figures, node, source.splitlines())
            if isinstance(node, DEFINITIONS) and (text := ast.get_docstring(node)):
                figures.docstring_words.append(len(text.split()))
            figures.comprehensions += isinstance(node, COMPREHENSIONS)
    return figures


def _add_function(figures: Figures, function: ast.FunctionDef, lines: list[str]) -> None:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return

    first, last = body[0].lineno, body[-1].end_lineno or body[-1].lineno
    figures.function_lines.append(last - first + 1)
    figures.blank_lines += sum(not line.strip() for line in lines[first - 1 : last])
    for statement in _simple_statements(body):
        figures.statement_nodes.append(sum(1 for _ in ast.walk(statement)))


def _simple_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that hold no others. Inner functions are left out: their statements are counted with them."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt) and not isinstance(node, COMPOUND):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def _own_line_comments(source: str) -> int:
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    return sum(token.type == tokenize.COMMENT and token.line.lstrip().startswith("#") for token in tokens)


def _ninth_decile(values: list[int]) -> int:
    return sorted(values)[int(0.9 * len(values))]


def _spread(values: list[int]) -> str:
    return f"{statistics.median(values):.0f} / {_ninth_decile(values)}"


def print_table(figures: Figures) -> None:
    """A line for each figure."""
    nodes, functions, words = figures.statement_nodes, figures.function_lines, figures.docstring_words
    lines, lines_inside = sum(figures.module_lines), sum(functions)
    shares = (
        100 * figures.blank_lines / lines_inside,
        100 * figures.comments / lines,
        100 * figures.comprehensions / lines,
    )
    blank, comments, comprehensions = (f"{share:.1f}" for share in shares)
    rows = {
        "modules in the fullest folder": str(max(figures.modules.values())),
        "lines of a module, median / 90 % / longest": _spread(figures.module_lines) + f" / {max(figures.module_lines)}",
        "lines of a function, median / 90 % / longest": _spread(functions) + f" / {max(functions)}",
        "syntax nodes of a statement, mean / 90 %": f"{statistics.mean(nodes):.1f} / {_ninth_decile(nodes)}",
        "blank lines per 100 lines inside functions": blank,
        "comments on a line of their own per 100 lines": comments,
        "comprehensions per 100 lines": comprehensions,
        "words of a docstring, median / 90 %": _spread(words),
    }
    for name, value in rows.items():
        print(f"{name:<48} {value}")


def main(arguments: list[str]) -> None:
    """Prints the table of the given folders and files, or of the whole product."""
    chosen = [Path(argument) for argument in arguments]
    modules = [module for path in chosen for module in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    print_table(measure(modules or product_modules(Path())))


if __name__ == "__main__":
    main(sys.argv[1:])
