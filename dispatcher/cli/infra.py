"""``dispatcher infra``: what the app needs in AWS, as a table, as a template, compared, and made at an emulator."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dispatcher.cli.errors import FAILED, OK, CommandError, say_error
from dispatcher.cli.options import shown
from dispatcher.cli.session import NEEDS_APP, Session
from dispatcher.cli.tables import show_table
from dispatcher.exceptions import DispatcherError, ImproperlyConfigured

if TYPE_CHECKING:
    from dispatcher.aws_options import ClientSettings
    from dispatcher.provision import Plan

_EPILOG = """\b
Examples:
  dispatcher -A shop.tasks infra plan                          queues, functions, numbers and schedules
  dispatcher -A shop.tasks infra sam                           write template.yaml, or renew what is ours in it
  dispatcher -A shop.tasks infra cdk                           write infra/app.py, a CDK app for a start
  dispatcher -A shop.tasks infra sam --check                   fail if it is not up to date: for CI
  dispatcher -A shop.tasks infra check --template template.yaml
  dispatcher -A shop.tasks infra check --stack shop-prod       compare with what is deployed

\b
The plan follows from tasks, routes, limits and schedules; the setting `infra` says what cannot be read off them.
"""

_stage = click.option("--stage", metavar="NAME", help="The stage: what infra['stages'] has for it, and names with it.")


@click.group("infra", epilog=_EPILOG)
def infra() -> None:
    """Queues, functions, roles and alarms: derived from the app."""


def planned(session: Session, stage: str | None) -> Plan:
    """Return the plan of the app that was named; raises `CommandError` where none is."""
    from dispatcher.provision import plan
    from dispatcher.provision.resources import template

    if session.spec is None:
        raise CommandError(NEEDS_APP)
    made = plan(session.app_with_modules(), spec=session.spec, stage=stage)
    template(made)  # some limits are known only once there are resources
    return made


@infra.command("plan")
@_stage
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def show_plan(session: Session, stage: str | None, as_json: bool) -> int:
    """Show what the app needs."""
    made = planned(session, stage)
    if as_json:
        click.echo(shown(dataclasses.asdict(made), indent=2))
        return OK
    show_table(
        ("queue", "tasks", "memory", "timeout", "batch", "concurrency", "visibility", "receives"),
        [_queue_row(queue) for queue in made.queues],
    )
    show_table(
        ("task", "queue", "limit", "rate", "record"),
        [
            (
                task.name,
                task.queue,
                "" if task.limit is None else f"{task.limit:g} s",
                "" if task.rate_limit is None else f"{task.rate_limit:.4g}/s",
                "only if it fails" if task.lean else "yes",
            )
            for task in made.tasks
        ],
        text=2,
    )
    if made.schedules:
        show_table(
            ("entry", "task", "queue", "fired by", "expression", ""),
            [
                (each.entry, each.task, each.queue, each.kind, _expression(each), "" if each.enabled else "disabled")
                for each in made.schedules
            ],
            text=6,
        )
    for note in made.notes:
        click.echo(f"note: {note}")
    return OK


def _queue_row(queue: Any) -> tuple[Any, ...]:
    function = queue.function
    if function is None:
        return (
            queue.name,
            len(queue.tasks),
            "none",
            "",
            "",
            "",
            f"{queue.visibility_timeout} s",
            queue.max_receive_count,
        )
    window = f" in {function.batching_window} s" if function.batching_window else ""
    return (
        queue.name, len(queue.tasks), f"{function.memory} MB", f"{function.timeout} s",
        f"{function.batch_size}{window}", function.maximum_concurrency, f"{queue.visibility_timeout} s",
        queue.max_receive_count,
    )  # fmt: skip


def _expression(timer: Any) -> str:
    zone = f" {timer.timezone}" if timer.timezone else ""
    return f"{timer.expression}{zone}" + ("" if timer.exact else ", worker chooses")


@infra.command("cdk")
@_stage
@click.option("-o", "--output", default="infra/app.py", show_default=True, metavar="FILE", help="The app; - prints.")
@click.pass_obj
def cdk(session: Session, stage: str | None, output: str) -> int:
    """Write a CDK app for a start; from then on it is yours."""
    from dispatcher.provision.cdk_app import render

    made = planned(session, stage)
    path = Path("infra/app.py" if output == "-" else output)
    if output != "-" and path.exists():
        raise CommandError(f"{output} is there already, and yours; name another file with -o, or remove it")
    here = Path.cwd()
    if not path.resolve().is_relative_to(here):
        raise CommandError(f"{output} is outside of {here}; run this where the project is, or give --workdir")
    text = render(
        made,
        source=PurePosixPath(_source(made.app, here).as_posix()),
        output=PurePosixPath(path.resolve().relative_to(here).as_posix()),
    )
    if output == "-":
        click.echo(text, nl=False)
        return OK
    _write(path, text)
    if not session.quiet:
        click.echo(f"{output} written; `npx aws-cdk@2 deploy --app 'python {output}'` deploys it", err=True)
        _ask_for_requirements(Path("requirements.txt"))
    return OK


def _ask_for_requirements(path: Path) -> None:
    if not path.exists():
        click.echo(f"{path} is still to be written: serverless-dispatcher, and what the app imports", err=True)


def _source(spec: str, here: Path) -> Path:
    """Return where the app's top package or module is, below the project's directory."""
    name = spec.partition(":")[0].partition(".")[0]
    file = getattr(sys.modules[name], "__file__", None)
    path = here / name if file is None else Path(file).resolve()
    path = path.parent if path.name == "__init__.py" else path
    if not path.is_relative_to(here):
        raise CommandError(f"the app's {name} is at {path}, outside of {here}; run this where the project is")
    return path.relative_to(here)


@infra.command("sam")
@_stage
@click.option(
    "-o", "--output", default="template.yaml", show_default=True, metavar="FILE", help="The template; - prints."
)
@click.option("--check", is_flag=True, help="Write nothing; fail with the difference if the file is not up to date.")
@click.option("--force", is_flag=True, help="Renew what is ours although somebody changed it.")
@click.pass_obj
def sam(session: Session, stage: str | None, output: str, check: bool, force: bool) -> int:
    """Write the SAM template and how its functions are built, or renew what is ours in it; the rest stays as it is."""
    from dispatcher.provision import makefile
    from dispatcher.provision.resources import template
    from dispatcher.provision.sam import render

    if check and output == "-":
        raise CommandError("--check compares with a file, and -o - prints; give one of them")
    made = planned(session, stage)
    build = (Path(output).parent if output != "-" else Path()) / makefile.folder(made) / "Makefile"
    if output == "-":
        click.echo(render(made), nl=False)
        if makefile.render(made, template(made)) is not None:
            click.echo(f"its functions are built by {build}, which `infra sam -o FILE` writes beside FILE", err=True)
        return OK
    force = force or check
    files = [
        _Renewed.by(Path(output), lambda before: render(made, before, force=force)),
        _Renewed.by(build, lambda before: makefile.render(made, template(made), before, force=force)),
    ]
    changed = [each for each in files if each.before != each.after and each.after is not None]
    if check and changed:
        click.echo("\n".join(line for each in changed for line in each.difference()))
        stale = f"{' and '.join(str(each.path) for each in changed)} {'is' if len(changed) == 1 else 'are'}"
        say_error(f"{stale} not up to date; run `dispatcher -A {session.spec} infra sam -o {output}`")
        return FAILED
    for each in changed:
        _write(each.path, each.after or "")
        if not session.quiet:
            click.echo(f"{each.path} {'written' if each.before is None else 'renewed'}", err=True)
    if not changed and not session.quiet:
        click.echo(f"{output} is up to date", err=True)
    if not check and not session.quiet:
        rules = files[1]
        if rules.after is not None:
            _ask_for_requirements(Path(output).parent / made.code / "requirements.txt")
        elif rules.before is not None and makefile.is_ours(rules.before):
            click.echo(f"no longer used: {build}", err=True)
    return OK


class _Renewed(NamedTuple):
    """A file of which something is ours: its text as it is, `None` for none, and as it should be."""

    path: Path
    before: str | None
    after: str | None

    @classmethod
    def by(cls, path: Path, render: Callable[[str | None], str | None]) -> _Renewed:
        """Return a file and what is made of its text; raises `CommandError` with the file's name."""
        # Bytes, so that line endings stay as they are.
        before = _text_of(path) if path.exists() else None
        try:
            return cls(path, before, render(before))
        except ImproperlyConfigured:
            raise
        except DispatcherError as error:
            raise CommandError(f"{path}: {error}", FAILED) from error

    def difference(self) -> Iterator[str]:
        """Yield the lines of a diff."""
        before, after = (text or "" for text in (self.before, self.after))
        return difflib.unified_diff(before.splitlines(), after.splitlines(), str(self.path), "the app", lineterm="")


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is no UTF-8 text: {error}") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", FAILED) from error


def _write(path: Path, text: str) -> None:
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        path.write_bytes(text.encode())
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}", FAILED) from error


@infra.command("check")
@_stage
@click.option("--template", "path", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="A template.")
@click.option("--stack", metavar="NAME", help="A deployed stack, read by describe calls.")
@click.option("--endpoint", metavar="URL", help="Where the stack is, if not in AWS.")
@click.pass_obj
def check(session: Session, stage: str | None, path: str | None, stack: str | None, endpoint: str | None) -> int:
    """Compare the app with a template or with a deployed stack; fail where they differ."""
    from dispatcher.provision.check import check_template
    from dispatcher.provision.reading import UnreadableTemplate
    from dispatcher.provision.resources import template

    if path is not None and stack is not None:
        raise CommandError("name one to compare with, --template FILE or --stack NAME, not both")
    if path is None and stack is None:
        raise CommandError("name what to compare with: --template FILE or --stack NAME")
    if path is not None and endpoint is not None:
        raise CommandError("--endpoint is where a stack is; a template is read from its file")
    made = template(planned(session, stage))
    if path is not None:
        try:
            found = check_template(made, _text_of(Path(path)), Path(path).parent)
        except UnreadableTemplate as error:
            raise CommandError(f"{path}: {error}") from error
    else:
        from dispatcher.provision.live import check_stack

        assert stack is not None
        found = check_stack(made, stack, _at(session, endpoint))
    place = path or f"the stack {stack}"
    for each in found:
        click.echo(str(each))
    if found:
        say_error(f"{place} and the app differ in {len(found)} {'place' if len(found) == 1 else 'places'}")
        return FAILED
    if not session.quiet:
        click.echo(f"{place} is what the app needs", err=True)
    return OK


def _at(session: Session, endpoint: str | None) -> ClientSettings:
    """Return the settings of clients, and say which region was chosen."""
    from dispatcher import aws

    settings = aws.at_endpoint(endpoint)
    if settings.region is not None and not session.quiet:
        click.echo(f"region {settings.region}: none is set (AWS_DEFAULT_REGION)", err=True)
    return settings


@infra.command("apply")
@_stage
@click.option("--endpoint", metavar="URL", required=True, help="The emulator; AWS itself is refused.")
@click.option("--stack", metavar="NAME", help="The name of the stack [that of the app].")
@click.option(
    "--code",
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    help="The functions' package: a ZIP archive or a directory, as of `sam build`. Without it: no functions.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outputs as a JSON object.")
@click.pass_obj
def apply(
    session: Session, stage: str | None, endpoint: str, stack: str | None, code: Path | None, as_json: bool
) -> int:
    """Make what the app needs at an emulator, or bring it up to date."""
    from dispatcher.provision.apply import apply

    made = planned(session, stage)
    _at(session, endpoint)
    outputs = apply(made, endpoint=endpoint, stack=stack, code=code)
    if as_json:
        click.echo(shown(outputs))
    else:
        show_table(("output", "value"), sorted(outputs.items()), text=2)
    return OK
