"""Tables on the console."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

#: Without a terminal nothing is wrapped: whatever reads the output wants whole lines.
_WIDE = 1000


def console() -> Console:
    """Return a console on the standard output that heeds ``--no-color`` and never wraps into a pipe."""
    from rich.console import Console

    context = click.get_current_context(silent=True)
    plain = context is not None and context.color is False
    made = Console(no_color=True if plain else None, highlight=False, soft_wrap=False, markup=False, emoji=False)
    return made if made.is_terminal else Console(
        no_color=True, highlight=False, width=_WIDE, markup=False, emoji=False
    )  # fmt: skip


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], text: int = 1, footer: Sequence[Any] | None = None
) -> Any:
    """Return a table; the first ``text`` columns hold text, the others numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=footer is not None)
    for position, name in enumerate(columns):
        last = "" if footer is None else str(footer[position])
        made.add_column(name, footer=last, justify="left" if position < text else "right", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], text: int = 1) -> None:
    """Print a table."""
    console().print(table(columns, rows, text))
