"""Which module imports which, read from the source without running it.

Imports inside functions, under ``TYPE_CHECKING`` and by ``import_module("literal")`` count like any other.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "dispatcher"


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, where it lies, its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Import:
    """One import: the importing module, the imported one, the line."""

    source: str
    target: str
    line: int


def load_modules(package: Path) -> dict[str, Module]:
    """Return every module under `package` by its dotted name, which starts with the folder's own name."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
    return modules


def imports_of(module: Module, modules: dict[str, Module]) -> Iterator[Import]:
    """Yield the imports of `module`; ``from package import name`` means the submodule where there is one."""
    for node in ast.walk(module.tree):
        for target in _targets(node, module, modules):
            yield Import(module.name, target, node.lineno)  # type: ignore[attr-defined]


def _targets(node: ast.AST, module: Module, modules: dict[str, Module]) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(names=names):
            base = _absolute(node, module)
            for alias in names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in modules else base
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(target)), *_],
        ):
            yield target


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if node.level == 0:
        return node.module or ""
    package = module.name.split(".")
    keep = len(package) - node.level + module.is_package
    return ".".join([*package[:keep], *([node.module] if node.module else [])])


def find_cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, each sorted (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for successor in graph[node]:
            if successor not in index:
                visit(successor)
                low[node] = min(low[node], low[successor])
            elif successor in stack:
                low[node] = min(low[node], index[successor])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1 or node in graph[node]:
                cycles.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return cycles
