"""Modules say what they are for; tests say which behaviour they hold."""

import ast
from collections.abc import Iterator

from tests.project.imports import PACKAGE, REPOSITORY, load_modules


def _test_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def test_public_modules_have_docstrings() -> None:
    """Every public module of the package opens with a docstring."""
    silent = [
        name
        for name, module in load_modules(PACKAGE).items()
        if not any(part.startswith("_") for part in name.split(".")) and not ast.get_docstring(module.tree)
    ]
    assert not silent, f"without a docstring: {', '.join(silent)}"


def test_test_functions_have_docstrings() -> None:
    """Every test states the behaviour it holds in a docstring."""
    silent = [
        f"{path.relative_to(REPOSITORY)}:{function.lineno}: {function.name}"
        for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        for function in _test_functions(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
        if not ast.get_docstring(function)
    ]
    assert not silent, "without a docstring:\n" + "\n".join(silent)
