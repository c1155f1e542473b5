"""``python -m benchmarks [ROW ...]``: measure, print a Markdown report, keep the figures.

``python -m benchmarks scale`` predicts instead: see `benchmarks.scale.command`.
"""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks import environment


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = None if arguments[:1] == ["scale"] else _parse(arguments)
    try:
        environment.enter(arguments)
        return _run(arguments, options)
    except environment.EnvironmentFailed as error:
        raise SystemExit(f"error: {error}") from None


def _run(arguments: list[str], options: argparse.Namespace | None) -> int:
    # A terminated run stops its servers and workers as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options is None:
        from benchmarks.scale import command

        return command.main(arguments[1:])

    # The rest needs redis-py, which only the peers' environment is sure to have.
    from benchmarks import session

    if options.list:
        return session.show_rows()
    if options.report:
        return session.rewrite_report()
    return session.measure(options.rows, options.rounds, options.only, full=options.full)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure dispatcher beside its peers.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to measure (default: all; see --list)")
    parser.add_argument(
        "--full", action="store_true", help="full sizes; keeps each row's figures and rewrites the report"
    )
    parser.add_argument("--rounds", type=int, help="rounds (default: 1; with --full as --list shows)")
    parser.add_argument("--only", help="contenders to measure, separated by commas (default: all of the row)")
    parser.add_argument("--list", action="store_true", help="list the rows, their rounds and what they took, and end")
    parser.add_argument(
        "--report", action="store_true", help="rewrite both READMEs and plots from the kept figures and end"
    )
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    options.only = options.only.split(",") if options.only else []
    if options.full and options.only:
        parser.error("--only is for quick looks: the kept figures of a row are of all its contenders, side by side")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
