"""The package's MiniStack, and in it Python functions under the real runtime client with truer event source mappings.

`python -m tests.emulation.ministack` runs in the environment of `requirements-ministack.txt`, never in the project's
own, and from the repository's root.
"""

import importlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from dispatcher.local import ministack
from dispatcher.local.sandbox import Function, Invocation, Sandbox
from tests.emulation.mapping_corrections import MappingCorrections


def main() -> None:
    """Serve until told to stop."""
    parser = ministack.options()
    parser.add_argument("--python", required=True, help="interpreter for functions; it must have awslambdaric")
    parser.add_argument("--search", default=[], action="append", help="where else modules are looked for, at last")
    chosen = parser.parse_args()
    sys.path += chosen.search

    def prepare(url: str) -> None:
        sqs = importlib.import_module("ministack.services.sqs")
        lambda_service = importlib.import_module("ministack.services.lambda_svc")
        MappingCorrections(lambda_service, sqs).install()
        _add_end_of_waits(sqs)
        _count_calls()
        _run_functions_in_sandboxes(lambda_service, chosen.python, url)

    ministack.serve(chosen, prepare)


def _add_end_of_waits(sqs: Any) -> None:
    """Add an action that SQS has not: it lets the time pass that a queue's messages wait for, leased or delayed."""

    def end_waits(data: dict[str, Any], url: str) -> dict[str, Any]:
        with sqs._queues_lock:
            for message in sqs._get_q(data.get("QueueUrl", url))["messages"]:
                message["visible_at"] = min(message["visible_at"], time.time())
        sqs.esm_wake.set()
        return {}

    sqs._HANDLERS["EndWaits"] = end_waits


def _count_calls() -> None:
    """Count the calls of every client by their `X-Amz-Target`, and tell them at `/_ministack/calls`."""
    module = importlib.import_module("ministack.app")
    served, calls = module.app, Counter[str]()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/_ministack/calls":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": json.dumps(calls).encode()})
                return
            calls.update(value.decode() for name, value in scope["headers"] if name == b"x-amz-target")
        await served(scope, receive, send)

    module.app = app


def _run_functions_in_sandboxes(lambda_service: Any, python: str, url: str) -> None:
    """Execute functions of every Python runtime in our sandboxes, one for each concurrent invocation."""
    runtime: Any = importlib.import_module("ministack.core.lambda_runtime")
    stock_class, stock_execute = runtime._worker_class_for, lambda_service._execute_function_warm

    class SandboxWorker(runtime.Worker):  # type: ignore[misc]
        """An execution environment of MiniStack's pool, on our sandbox."""

        _sandbox: Sandbox | None = None

        def _spawn(self) -> None:
            """The first invocation starts the process, so that its init counts as Lambda counts it."""

        def invoke(self, event: Any, request_id: str, *, trace_id: str | None = None, **_: Any) -> dict[str, Any]:
            with self._lock:
                if self._sandbox is None:
                    self._sandbox = Sandbox(_function(self, lambda_service, runtime, python, url))
                return _as_ministack_expects(
                    self._sandbox.invoke(event, request_id=request_id, trace_id=trace_id or "")
                )

        def _discard_tmpdir(self) -> None:
            sandbox, self._sandbox = self._sandbox, None
            if sandbox is not None:
                sandbox.close()

    def worker_class_for(config: dict[str, Any]) -> Any:
        return SandboxWorker if _is_python(config) else stock_class(config)

    def execute(function: dict[str, Any], event: Any, request_id: str) -> Any:
        # The path for custom runtimes passes error payloads on untouched; the one for Python rewrites them.
        provided = _is_python(function.get("config") or function)
        return (lambda_service._execute_function_provided_warm if provided else stock_execute)(
            function, event, request_id
        )

    runtime._worker_class_for = worker_class_for
    lambda_service._execute_function_warm = execute


def _is_python(config: dict[str, Any]) -> bool:
    return str(config.get("Runtime", "")).startswith("python")


def _function(worker: Any, lambda_service: Any, runtime: Any, python: str, url: str) -> Function:
    config = worker.config
    _, region = runtime._account_region_from_function_config(config)
    return Function(
        code=Path(lambda_service._provided_runtime_code_dir(worker.code_zip)),
        handler=config["Handler"],
        timeout=float(config.get("Timeout", 3)),
        memory_mb=int(config.get("MemorySize", 128)),
        python=python,
        environment={
            "AWS_ENDPOINT_URL": url,
            **lambda_service._runtime_env_vars(config),
            **runtime.execution_credentials(config),
        },
        name=config["FunctionName"],
        arn=config.get("FunctionArn", ""),
        region=region,
        path=_layer_path(config, lambda_service),
    )


def _layer_path(config: dict[str, Any], lambda_service: Any) -> list[Path]:
    """Search path of the function's layers; a later layer is laid over an earlier one."""
    archives = [lambda_service._resolve_layer_zip(layer) for layer in config.get("Layers") or []]
    roots = [Path(lambda_service._docker_extracted_dir(archive, "layer")) / "python" for archive in archives if archive]
    return [path for root in reversed(roots) for path in (root, *sorted(root.glob("lib/python*/site-packages")))]


def _as_ministack_expects(invocation: Invocation) -> dict[str, Any]:
    """An invocation's outcome in the shape that MiniStack's worker pool returns."""
    try:
        payload = invocation.json()
    except ValueError:
        payload = invocation.payload.decode(errors="replace")
    answer = {"cold_start": invocation.init_duration is not None, "log": invocation.log}
    if not invocation.failed:
        return {**answer, "status": "ok", "result": payload}
    message = payload.get("errorMessage") if isinstance(payload, dict) else payload
    return {**answer, "status": "error", "error": str(message), "error_payload": payload}


if __name__ == "__main__":
    main()
