"""The layer rules of the package: one table each, and the check that reads them.

Names are relative to ``dispatcher`` and cover the modules below them; the longest entry that fits a module decides.
"""

import ast
import sys
from collections.abc import Iterator

from tests.project.imports import Import, Module, find_cycles, imports_of

# A module may import from its own layer and from those with a lower number. New modules must be entered here.
LAYERS = {
    # 0: vocabulary
    "_version": 0,
    "exceptions": 0,
    "states": 0,
    "quotas": 0,
    "signals": 0,
    "clock": 0,
    "utils": 0,
    # 1: pure parts
    "config": 1,
    "serialization": 1,
    "security": 1,
    "sensitive": 1,
    "retry": 1,
    "rates": 1,
    "schedules": 1,
    # 2: the envelope, and what is current
    "message": 2,
    "request": 2,
    "state": 2,
    "routing": 2,
    # 3: ports
    "brokers.base": 3,
    "backends.base": 3,
    "backends.joins": 3,
    "sqlite_schema": 3,
    "sqlite_store": 3,
    "memory_store": 3,
    "utils.log": 3,
    # 4: adapters and what reads them
    "aws": 4,
    "aws_data": 4,
    "aws_shortcuts": 4,
    "aws_bounds": 4,
    "aws_options": 4,
    "redis_settings": 4,
    "redis_connection": 4,
    "brokers": 4,
    "backends": 4,
    "payloads": 4,
    "result_reading": 4,
    "result_families": 4,
    "async_result": 4,
    "eager_result": 4,
    "result_sets": 4,
    "result": 4,
    "workflow_state": 4,
    # 5-8: tasks, their execution, the app
    "canvas": 5,
    "unique": 6,
    "task_options": 6,
    "task_signatures": 6,
    "task": 6,
    "decorators": 7,
    "registry": 7,
    "call_options": 7,
    "sending": 7,
    "claims": 7,
    "packing": 7,
    "outbox": 7,
    "publishing": 7,
    "connections": 7,
    "execution": 7,
    "eager": 8,
    "shared": 8,
    "app": 8,
    # 9: the places where tasks run
    "lambda_runtime": 9,
    "consumer": 9,
    "beat": 9,
    "beat.entries": 7,
    "beat.firing": 7,
    "beat.stored": 7,
    "beat.dynamic": 7,
    "provision.eventbridge": 2,
    "loading": 9,
    "packaging": 9,
    "provision": 9,
    "local": 9,
    # 10: the edge
    "cli": 10,
    "testing": 10,
    "pytest_plugin": 10,
    "contrib": 10,
    "__main__": 10,
}
ROOT_LAYER = 11  # dispatcher/__init__.py, which names everything and is imported by nothing inside

# Modules of one layer that must not know each other.
STRANGERS = {
    ("lambda_runtime", "consumer"): "the Lambda side and the local side meet in the executor only",
    ("consumer", "lambda_runtime"): "the Lambda side and the local side meet in the executor only",
}

# Single imports that break a rule above for a reason.
EXCEPTIONS: dict[tuple[str, str], str] = {}

AWS_ADAPTERS = ("aws", "aws_data", "aws_shortcuts", "brokers.sqs", "backends.dynamodb", "payloads", "provision")

# Which modules may import what is not in the standard library, and the parts of it that cost or bind.
RESTRICTED = {
    "boto3": AWS_ADAPTERS,
    "botocore": AWS_ADAPTERS,
    "localstack_client": AWS_ADAPTERS,
    "aws_lambda_powertools": ("lambda_runtime",),
    "aws_cdk": ("provision.cdk",),
    "constructs": ("provision.cdk",),
    "redis": ("redis_connection", "brokers.redis", "backends.redis"),
    "sqlite3": ("brokers.sqlite", "backends.sqlite", "backends.sqlite_joins", "sqlite_schema", "sqlite_store"),
    "msgpack": ("serialization",),
    "yaml": ("serialization", "provision.reading"),
    "pickle": ("serialization",),
    "click": ("cli",),
    "rich": ("cli",),
    "ephem": ("schedules.sun",),
    "gevent": ("consumer",),
    "eventlet": ("consumer",),
    "pytest": ("testing", "pytest_plugin"),
    "django": ("app.django",),
    "typing_extensions": ("async_result", "eager_result", "result_sets", "task"),  # for type checkers only
    "celery": ("contrib.celery",),
    "ministack": ("local.ministack",),
    "hypercorn": ("local.ministack",),
}

# Everybody else gets a Config.
MAY_READ_ENVIRONMENT = ("config", "lambda_runtime.bootstrap")
ENVIRONMENT_NAMES = frozenset({"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"})

ROOT = "dispatcher"


def violations(modules: dict[str, Module]) -> list[str]:
    """Return every broken rule as one line that names the place, the rule and the way out."""
    # A dict, because `from x import a, b` names x twice.
    imports = list(dict.fromkeys(found for module in modules.values() for found in imports_of(module, modules)))
    internal = [found for found in imports if _is_internal(found.target)]
    return [
        *_unknown_modules(modules),
        *_upward_imports(internal),
        *_cycles(internal, modules),
        *_restricted_imports([found for found in imports if not _is_internal(found.target)]),
        *_environment_reads(modules),
        *_stale_exceptions(internal, modules),
    ]


def layer_of(module: str) -> int | None:
    """Return the layer of a dotted module name, or None if the table does not know it."""
    if module == ROOT:
        return ROOT_LAYER
    entry = _longest_entry(_relative(module), LAYERS)
    return None if entry is None else LAYERS[entry]


def _is_internal(module: str) -> bool:
    return module == ROOT or module.startswith(f"{ROOT}.")


def _relative(module: str) -> str:
    return module.removeprefix(f"{ROOT}.")


def _covers(entry: str, module: str) -> bool:
    return module == entry or module.startswith(f"{entry}.")


def _longest_entry(module: str, entries: dict[str, int]) -> str | None:
    return max((entry for entry in entries if _covers(entry, module)), key=len, default=None)


def _unknown_modules(modules: dict[str, Module]) -> Iterator[str]:
    for name in modules:
        if layer_of(name) is None:
            yield f"{name}: no layer; enter it in LAYERS (tests/project/layers.py)"


def _upward_imports(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        place = f"{found.source}:{found.line}: imports {found.target}"
        pair = (_relative(found.source), _relative(found.target))
        source, target = layer_of(found.source), layer_of(found.target)
        if pair in EXCEPTIONS:
            continue
        if found.target == ROOT and found.source != ROOT:
            yield f"{place}: the root only re-exports; import from the module that defines the name"
        elif source is not None and target is not None and target > source:
            yield f"{place}: layer {source} must not import layer {target}; hand the object in instead"
        for (one, other), reason in STRANGERS.items():
            if _covers(one, pair[0]) and _covers(other, pair[1]):
                yield f"{place}: {reason}"


def _cycles(imports: list[Import], modules: dict[str, Module]) -> Iterator[str]:
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for found in imports:
        if found.target in modules and (_relative(found.source), _relative(found.target)) not in EXCEPTIONS:
            graph[found.source].add(found.target)
    for cycle in find_cycles(graph):
        yield f"import cycle: {', '.join(cycle)}"


def _restricted_imports(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        top = found.target.partition(".")[0]
        place = f"{found.source}:{found.line}: imports {top}"
        allowed = RESTRICTED.get(top)
        if allowed is None:
            if top not in sys.stdlib_module_names:
                yield f"{place}, which RESTRICTED (tests/project/layers.py) does not know"
        elif not any(_covers(entry, _relative(found.source)) for entry in allowed):
            yield f"{place}, which belongs in {' or '.join(allowed)} only"


def _environment_reads(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if any(_covers(entry, _relative(module.name)) for entry in MAY_READ_ENVIRONMENT):
            continue
        for node in ast.walk(module.tree):
            if _touches_environment(node):
                where = " or ".join(MAY_READ_ENVIRONMENT)
                yield f"{module.name}:{node.lineno}: touches the environment, which only {where} may"  # type: ignore[attr-defined]


def _touches_environment(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="os"), attr=name):
            return name in ENVIRONMENT_NAMES
        case ast.ImportFrom(module="os", names=names):
            return any(alias.name in ENVIRONMENT_NAMES for alias in names)
    return False


def _stale_exceptions(imports: list[Import], modules: dict[str, Module]) -> Iterator[str]:
    used = {(_relative(found.source), _relative(found.target)) for found in imports}
    for pair in EXCEPTIONS:
        if pair not in used and f"{ROOT}.{pair[0]}" in modules:
            yield f"EXCEPTIONS: {pair[0]} no longer imports {pair[1]}; remove the entry"
