"""``dispatcher dlq``: look at dead letters, send them back to be run, remove or save them."""

from __future__ import annotations

import contextlib
import heapq
import json
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from typing import Any

import click

from dispatcher.brokers.base import DeadLetter
from dispatcher.cli.errors import FAILED, NO_RESULT, OK, CommandError, say_error
from dispatcher.cli.letters import Selection, body_of, describe, revealing, selecting, task_id_of, task_of
from dispatcher.cli.options import shown
from dispatcher.cli.queues import known_queues
from dispatcher.cli.session import Session
from dispatcher.cli.tables import show_table

_EPILOG = """\b
Examples:
  dispatcher -A shop.tasks dlq list                                      the newest, with the reason
  dispatcher -A shop.tasks dlq list --task 'shop.charge*' --exception ConnectionError
  dispatcher -A shop.tasks dlq show 0d9a4ff2-5a3c-4cc5-9a3e-3d8be2f7a6a5
  dispatcher -A shop.tasks dlq redrive --exception '/time.?out/' --newer-than 2h
  dispatcher -A shop.tasks dlq redrive -Q mail --limit 1                 try one first
  dispatcher -A shop.tasks dlq export -o dead.jsonl && dispatcher -A shop.tasks dlq purge --older-than 7d --yes

\b
Several options choose what fits them all, one option given several times what fits one of them.
On SQS each look is a receive and leases the letters while it lasts; docs/dead-letters.md has the limits.
"""
#: More letters than this show how far a command is.
_MANY = 200


@click.group("dlq", epilog=_EPILOG)
def dlq() -> None:
    """Dead letters: list, show, redrive, purge, export."""


def _json(help: str) -> Callable[[Any], Any]:
    return click.option("--json", "as_json", is_flag=True, help=help)


_dry_run = click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@dlq.command("list")
@selecting
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many.")
@_json("Print a JSON list, bodies included.")
@revealing
@click.pass_obj
def list_letters(session: Session, selection: Selection, limit: int, as_json: bool, reveal: bool) -> int:
    """List dead letters, newest first."""
    app, names = _opened(session, selection)
    if selection.everything:
        found: Iterator[DeadLetter] = (letter for name in names for letter in app.broker.dead_letters(name, limit))
        total = sum(app.broker.counts(name).dead for name in names)
    else:
        counted: Counter[str] = Counter()
        found = (letter for page in _chosen(session, app, names, selection, counted) for letter in page)
    # Two of one moment must not be compared any further.
    newest = heapq.nlargest(limit, found, key=lambda letter: letter.at)
    if not selection.everything:
        total = counted.total()
    if as_json:
        click.echo(shown([describe(letter, app, reveal) for letter in newest]))
        return OK
    if not newest:
        click.echo("no dead letters" if selection.everything else "no dead letter fits", err=True)
        return OK
    show_table(("queue", "task", "id", "died", "reason"), [_row(letter) for letter in newest], text=5)
    if total > len(newest) and not session.quiet:
        click.echo(f"the newest {len(newest)} of {total}; --limit shows more", err=True)
    return OK


def _row(letter: DeadLetter) -> tuple[str, ...]:
    why = letter.reason.get("exception") or letter.reason.get("reason", "")
    first, newline, _ = why.partition("\n")
    return (
        letter.queue, task_of(letter) or "?", task_id_of(letter) or letter.message_id, _moment(letter.at),
        f"{first} …" if newline else first,
    )  # fmt: skip


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


@dlq.command("show")
@click.argument("wanted", metavar="ID...", nargs=-1, required=True)
@selecting
@_json("Print a JSON list.")
@revealing
@click.pass_obj
def show(session: Session, wanted: tuple[str, ...], selection: Selection, as_json: bool, reveal: bool) -> int:
    """Show dead letters whole: reason, traceback, body. ID is a task's id, or the message id that `list` shows."""
    app, names = _opened(session, selection)
    selection = selection.with_ids(wanted)
    letters = [letter for page in _chosen(session, app, names, selection) for letter in page]
    if as_json:
        click.echo(shown([describe(letter, app, reveal) for letter in letters]))
    else:
        click.echo("\n\n".join(_as_text(letter, body_of(letter, app, reveal)) for letter in letters), nl=bool(letters))
    if not letters:
        say_error(f"no dead letter of {', '.join(wanted)} in {', '.join(names)}")
        return NO_RESULT
    return OK


def _as_text(letter: DeadLetter, body: str) -> str:
    known = {
        "queue": letter.queue, "task": task_of(letter), "task id": task_id_of(letter), "message id": letter.message_id,
        "group": letter.group_id, "died": _moment(letter.at),
    }  # fmt: skip
    reason = {name: text for name, text in letter.reason.items() if name not in ("task", "task_id", "traceback")}
    lines = [f"{name:12}{value}" for name, value in {**known, **reason}.items() if value is not None]
    if "traceback" in letter.reason:
        lines += ["", letter.reason["traceback"].rstrip()]
    return "\n".join((*lines, "", body))


@dlq.command("redrive")
@selecting
@click.option("--limit", type=click.IntRange(1), help="No more than so many.")
@_dry_run
@_yes
@_json("Print a JSON object: letters redriven by queue.")
@click.pass_obj
def redrive(session: Session, selection: Selection, limit: int | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Send dead letters back to their queue, to be run again under their ids with fresh retries.

    Asks first where no option says which.
    """
    app, names = _opened(session, selection)
    if selection.everything and limit is None and not dry_run and not yes:
        _ask(app, names, as_json, "Send {} back to be run again?")
    act = None if dry_run else app.broker.redrive
    return _act(session, app, names, selection.limited(limit), act, "redriven", as_json)


@dlq.command("purge")
@selecting
@_dry_run
@_yes
@_json("Print a JSON object: letters removed by queue; needs --yes.")
@click.pass_obj
def purge(session: Session, selection: Selection, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove dead letters for good. Asks first."""
    app, names = _opened(session, selection)
    if not dry_run and not yes:
        which = "Remove {} for good?" if selection.everything else "Remove those of {} that fit for good?"
        _ask(app, names, as_json, which)
    act = None if dry_run else app.broker.remove_dead_letters
    return _act(session, app, names, selection, act, "removed", as_json)


@dlq.command("export")
@selecting
@click.option(
    "-o", "--output", type=click.File("w", encoding="utf-8", atomic=True), default="-",
    help="The file [standard output]; it appears when it is complete.",
)  # fmt: skip
@revealing
@click.pass_obj
def export(session: Session, selection: Selection, output: Any, reveal: bool) -> int:
    """Write dead letters as JSON lines, with body and reason; they stay where they are.

    Arguments that are marked as sensitive are written with --reveal only: without it such a body cannot be sent again.
    """
    app, names = _opened(session, selection)
    written: Counter[str] = Counter()
    masked = 0
    output.write("")  # so that the file is there also without any letter, or it is said why it cannot be
    with contextlib.closing(_chosen(session, app, names, selection, written)) as pages:
        for page in pages:
            described = [describe(letter, app, reveal) for letter in page]
            masked += sum(each["body"] != letter.body for each, letter in zip(described, page, strict=True))
            output.writelines(f"{shown(each)}\n" for each in described)
    if not session.quiet:
        click.echo(f"{_counted(written.total())} written", err=True)
    if masked:
        click.echo(f"{masked} of them without their sensitive arguments; --reveal writes those too", err=True)
    return OK


def _opened(session: Session, selection: Selection) -> tuple[Any, list[str]]:
    """Return the app and the names of the queues that are meant."""
    app = session.any_app()
    app.finalize()
    return app, selection.queues or known_queues(app)


def _ask(app: Any, names: list[str], as_json: bool, question: str) -> None:
    """Ask whether to go on; raises where nobody can be asked or the answer is no."""
    if as_json:
        raise CommandError("--json needs --yes: there is nobody to ask")
    where = f"queue {names[0]}" if len(names) == 1 else f"the queues {', '.join(names)}"
    letters = _counted(sum(app.broker.counts(name).dead for name in names))
    if not click.confirm(question.format(f"about {letters} of {where}"), err=True):
        raise CommandError("nothing was changed", FAILED)


def _act(
    session: Session, app: Any, names: list[str], selection: Selection,
    act: Callable[[list[DeadLetter]], int] | None, done: str, as_json: bool,
) -> int:  # fmt: skip
    """Do something with the letters that are meant; `None` does nothing with them. Tells how many also if it fails."""
    counts: Counter[str] = Counter(dict.fromkeys(names, 0))
    try:
        with contextlib.closing(_chosen(session, app, names, selection)) as pages:
            for page in pages:
                counts[page[0].queue] += len(page) if act is None else act(page)
    finally:
        if as_json:
            click.echo(json.dumps(counts))
        else:
            for name, count in counts.items():
                if count or len(names) == 1:
                    click.echo(f"{name}: {_counted(count)} {'would be ' if act is None else ''}{done}")
            if not counts.total() and len(names) > 1:
                click.echo("no dead letter fits" if not selection.everything else "no dead letters", err=True)
    return OK


def _chosen(
    session: Session, app: Any, names: list[str], selection: Selection, counts: Counter[str] | None = None
) -> Generator[list[DeadLetter], None, None]:
    """Yield the letters that are meant, page by page, each while the walk that shows them is under way."""
    now, left = app.broker.clock.time(), selection.limit
    with _progress(session, app, names) as advance:
        for name in names:
            with contextlib.closing(app.broker.walk_dead_letters(name)) as pages:
                for page in pages:
                    chosen = [letter for letter in page if selection.fits(letter, now)][:left]
                    if chosen:
                        yield chosen
                    if counts is not None:
                        counts[name] += len(chosen)
                    advance(len(page))
                    if left is not None:
                        left -= len(chosen)
                        if not left:
                            return


@contextlib.contextmanager
def _progress(session: Session, app: Any, names: list[str]) -> Iterator[Callable[[int], Any]]:
    """Show on a terminal how many letters were looked at, where there are many."""
    total = 0
    if sys.stderr.isatty() and not session.quiet:
        total = sum(app.broker.counts(name).dead for name in names)
    if total < _MANY:
        yield lambda count: None
        return
    with click.progressbar(length=total, label="dead letters", show_pos=True, file=sys.stderr) as bar:
        yield bar.update


def _counted(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"
