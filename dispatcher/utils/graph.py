"""A small dependency graph, as results show it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any


class DependencyGraph:
    """Nodes and the nodes that depend on each of them, in the order they were added."""

    def __init__(self, formatter: Callable[[Any], str] | None = None) -> None:
        self.adjacent: dict[Hashable, list[Any]] = {}
        self._format = formatter or str

    def add_arc(self, node: Any) -> None:
        """Add a node."""
        self.adjacent.setdefault(node, [])

    def add_edge(self, node: Any, dependent: Any) -> None:
        """Say that ``dependent`` follows from ``node``; adds both."""
        self.add_arc(node)
        self.add_arc(dependent)
        self.adjacent[node].append(dependent)

    def valency_of(self, node: Any) -> int:
        """Return how many nodes follow from this one, itself included."""
        return 1 + sum(self.valency_of(child) for child in self.adjacent[node])

    def items(self) -> Iterator[tuple[Any, list[Any]]]:
        """Yield nodes with what depends on them."""
        return iter(list(self.adjacent.items()))

    def edges(self) -> list[Any]:
        """Return the nodes that something depends on."""
        return [node for node, dependents in self.adjacent.items() if dependents]

    def to_dot(self) -> str:
        """Return the graph in Graphviz' language."""
        lines = [f'    "{self._format(node)}";' for node in self.adjacent]
        lines += [
            f'    "{self._format(node)}" -> "{self._format(dependent)}";'
            for node, dependents in self.adjacent.items()
            for dependent in dependents
        ]
        return "digraph dependencies {\n" + "\n".join(lines) + "\n}\n"

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __contains__(self, node: object) -> bool:
        return node in self.adjacent

    def __len__(self) -> int:
        return len(self.adjacent)

    def __repr__(self) -> str:
        return "\n".join(
            f"{self._format(node)} -> {', '.join(self._format(dependent) for dependent in dependents) or '∅'}"
            for node, dependents in self.adjacent.items()
        )
