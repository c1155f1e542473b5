"""``python -m dispatcher.packaging DIRECTORY SOURCE...``: builds a package, as for a Makefile that `sam build` runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.packaging.package import MACHINES, Contents, Package
from dispatcher.packaging.project import check_app


def main() -> int:
    """Build the package that the command line describes, and say what it holds."""
    parser = _parser()
    given = parser.parse_args()
    if not given.sources and given.project is None:
        parser.error("name what to pack: sources, or --project DIRECTORY")
    services = "all" if given.all_services else given.service
    package = Package(given.sources, given.requirements, services, not given.no_bytecode, given.python, given.project)
    try:
        contents = package.build(given.directory, runtime=given.runtime, architecture=given.architecture)
        if given.app is not None:
            check_app(given.directory, given.app)
    except ImproperlyConfigured as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    # On stdout, which `sam build` shows of a Makefile; it shows stderr only where that fails.
    sys.stdout.write(f"{_told(contents)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m dispatcher.packaging", description="Build the package of a Lambda function."
    )
    parser.add_argument("directory", type=Path, help="where to put it; $(ARTIFACTS_DIR) in a Makefile of `sam build`")
    parser.add_argument("sources", nargs="*", type=Path, metavar="source", help="a module or package of the app")
    parser.add_argument(
        "--project", type=Path, metavar="DIRECTORY",
        help="pack all that is in it but hidden files, environments, wheels and caches, the wheels of its "
        "requirements.txt, and botocore",
    )  # fmt: skip
    parser.add_argument("--app", metavar="MODULE:NAME", help="fail where the package lacks this app, or dispatcher")
    parser.add_argument("-r", "--requirements", type=Path, help="what the sources import, as for pip")
    parser.add_argument("--runtime", default="python3.13", help="the function's (default: %(default)s)")
    parser.add_argument("--architecture", default="arm64", choices=MACHINES, help="(default: %(default)s)")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument(
        "--service", action="append", metavar="NAME",
        help="keep botocore's model of this service beside those that dispatcher uses; may be repeated "
        "(default: those that the code names)",
    )  # fmt: skip
    kept.add_argument("--all-services", action="store_true", help="keep botocore's models of all services")
    parser.add_argument("--python", type=Path, help="an interpreter of the runtime's version (default: from the PATH)")
    parser.add_argument(
        "--no-bytecode", action="store_true", help="do not compile: cold starts take three times as long"
    )
    return parser


def _told(contents: Contents) -> str:
    said = "compiled" if contents.bytecode else "not compiled"
    if contents.services is None:
        return f"{said}; there is no botocore in the package, and Lambda's own has no bytecode"
    kept, reason = contents.services
    return f"{said}; botocore's models: {'all' if kept is None else ', '.join(sorted(kept))} ({reason})"


if __name__ == "__main__":
    sys.exit(main())
