"""Measure the shape of the package: files, names, functions, imports; beside packages that read well.

Run it from the repository: ``python benchmarks/measure_shape.py [FOLDER …]``. Without a folder it measures
``src/rlm_dspy`` and prints the anchors, measured on 26 November 2026 with the same rules.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ANCHORS = """
| | 26 November | mini-swe-agent | httpx | stamina | dspy | predict-rlm | inspect_ai |
|---|---|---|---|---|---|---|---|
| files / lines | 191 / 24,997 | 59 / 5,349 | 23 / 8,827 | 10 / 1,512 | 156 / 34,567 | 16 / 5,720 | 766 / 200,234 |
| import cycles | 0 | 0 | 0 | 0 | 83 | 0 | 196 |
| own imports inside functions | 39 | 1 | 1 | 3 | 41 | 6 | 501 |
| lines of a function, p90 / max | 19 / 58 | 26 / 70 | 34 / 133 | 28 / 184 | 37 / 376 | 95 / 338 | 47 / 1,067 |
| one-word function names | 81 % | 32 % | 48 % | 13 % | 25 % | 9 % | 17 % |
| letters of a function's name | 6.6 | 14.2 | 10.4 | 12.5 | 15.8 | 16.0 | 15.7 |
| class names in two files | 19 of 196 | 1 of 69 | 0 of 87 | 0 of 16 | 3 of 246 | 0 of 17 | 16 of 1,042 |
| comprehensions per 1,000 lines | 33 | 8 | 6 | 2 | 16 | 8 | 7 |
| ternaries per 1,000 lines | 27 | 8 | 9 | 3 | 9 | 9 | 8 |
""".strip()

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Shape:
    """What is counted of one package."""

    files: int
    lines: int
    cycles: list[list[str]]
    local_imports: int
    function_lines: list[int]
    function_names: list[str]
    classes: dict[str, list[str]]
    comprehensions: int
    ternaries: int

    @property
    def one_word_share(self) -> float:
        """The share of functions whose name is one word."""
        one_word = [name for name in self.function_names if "_" not in name.strip("_")]
        return len(one_word) / len(self.function_names)

    @property
    def double_classes(self) -> dict[str, list[str]]:
        """Class names that stand in more than one file, with the files."""
        return {name: files for name, files in self.classes.items() if len(set(files)) > 1}

    def line_percentile(self, share: float) -> int:
        """The length in lines below which this share of the functions is."""
        return sorted(self.function_lines)[int(share * (len(self.function_lines) - 1))]


def measure(folder: Path, lazy_rooms: frozenset[str] = frozenset()) -> Shape:
    """Measure the package in ``folder``; lazy imports of the modules below ``lazy_rooms`` make no cycle."""
    if not folder.is_dir():
        sys.exit(f"{folder} is not a folder")
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}
    nodes = {path: list(ast.walk(tree)) for path, tree in trees.items()}
    functions = [node for found in nodes.values() for node in found if isinstance(node, Function)]
    classes: dict[str, list[str]] = defaultdict(list)
    for path, found in nodes.items():
        for node in found:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(str(path.relative_to(folder)))
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in trees)
    imports = {path: list(own_imports(path, found, folder)) for path, found in nodes.items()}
    return Shape(
        files=len(trees),
        lines=lines,
        cycles=import_cycles(imports, folder, lazy_rooms),
        local_imports=sum(is_local for found in imports.values() for _, is_local in found),
        function_lines=[(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions],
        function_names=[node.name for node in functions if not node.name.startswith("__")],
        classes=classes,
        comprehensions=count_nodes(nodes, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
        ternaries=count_nodes(nodes, ast.IfExp),
    )


def count_nodes(nodes: dict[Path, list[ast.AST]], *kinds: type[ast.AST]) -> int:
    """Count the nodes of these kinds."""
    return sum(type(node) in kinds for found in nodes.values() for node in found)


def module_name(path: Path, folder: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_imports(path: Path, nodes: list[ast.AST], folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield what a file imports of its own package, and whether inside a function; not what is for type checkers."""
    package = module_name(path, folder)
    if path.name != "__init__.py":
        package = package.rpartition(".")[0]
    for_types: set[int] = set()
    local: set[int] = set()
    for block in nodes:
        if isinstance(block, Function):
            local.update(map(id, ast.walk(block)))
        elif isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test):
            for_types.update(map(id, ast.walk(block)))
    for node in nodes:
        if not isinstance(node, ast.ImportFrom) or id(node) in for_types:
            continue
        base = node.module or ""
        if node.level:
            above = package.split(".")
            above = above[: len(above) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        if base.split(".")[0] == folder.name:
            for alias in node.names:
                yield f"{base}.{alias.name}", id(node) in local
                yield base, id(node) in local


def import_cycles(
    imports: dict[Path, list[tuple[str, bool]]], folder: Path, lazy_rooms: frozenset[str]
) -> list[list[str]]:
    """Return the groups of modules that import each other, lazy imports counted except below ``lazy_rooms``."""
    modules = {module_name(path, folder): path for path in imports}
    arrows: dict[str, set[str]] = {}
    for name, path in modules.items():
        room = ".".join(name.split(".")[:2])
        targets = {target for target, is_local in imports[path] if not (is_local and room in lazy_rooms)}
        # ``from package import module`` is an arrow to the module, not to the package around it.
        named = {target for target in targets if target in modules and target != name}
        arrows[name] = {one for one in named if not any(other.startswith(f"{one}.") for other in named)}
    return [group for group in strong_groups(arrows) if len(group) > 1]


def strong_groups(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups within which each module reaches each other (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for target in arrows[name]:
            if target not in order:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], order[target])
        if lowest[name] == order[name]:
            at = stack.index(name)
            groups.append(sorted(stack[at:]))
            del stack[at:]

    for name in arrows:
        if name not in order:
            visit(name)
    return groups


def report_lines(shape: Shape) -> list[str]:
    """Return the figures of a package as rows of a table."""
    thousand = shape.lines / 1000
    doubles = shape.double_classes
    letters = sum(map(len, shape.function_names)) / len(shape.function_names)
    return [
        f"| files / lines | {shape.files} / {shape.lines:,} |",
        f"| import cycles | {len(shape.cycles)} |",
        f"| own imports inside functions | {shape.local_imports} |",
        f"| lines of a function, p90 / max | {shape.line_percentile(0.9)} / {max(shape.function_lines)} |",
        f"| one-word function names | {shape.one_word_share:.0%} |",
        f"| letters of a function's name | {letters:.1f} |",
        f"| class names in two files | {len(doubles)} of {len(shape.classes)} |",
        f"| comprehensions per 1,000 lines | {shape.comprehensions / thousand:.0f} |",
        f"| ternaries per 1,000 lines | {shape.ternaries / thousand:.0f} |",
    ]


def main() -> None:
    """Print the figures of the folders named, or of this package with the anchors beside it."""
    folders = [Path(name) for name in sys.argv[1:]] or [Path(__file__).parent.parent / "src" / "rlm_dspy"]
    for folder in folders:
        shape = measure(folder)
        print(f"| {folder.name} | |\n|---|---|")
        print("\n".join(report_lines(shape)))
        for name, files in shape.double_classes.items():
            print(f"class {name}: {', '.join(files)}")
        for cycle in shape.cycles:
            print(f"cycle: {', '.join(cycle)}")
    if not sys.argv[1:]:
        print(f"\n{ANCHORS}")


if __name__ == "__main__":
    main()
