"""MiniStack, closer to the service where tasks would notice; runs in an environment of its own.

It serves on a socket that it inherits, and ends on SIGTERM or as soon as its standard input ends, so that it never
outlives the process that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import resource
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from dispatcher.local.schedule_corrections import ScheduleCorrections
from dispatcher.local.sqs_corrections import SqsCorrections


def main() -> None:
    """Serve until told to stop."""
    serve(options().parse_args())


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of the listening socket")
    parser.add_argument("--scratch", required=True, help="directory for files, removed at the end")
    parser.add_argument("--duplicates", type=float, default=0.0, help="share of messages delivered twice")
    parser.add_argument("--shuffle", action="store_true", help="hand messages out in random order")
    return parser


def serve(chosen: argparse.Namespace, prepare: Callable[[str], None] | None = None) -> None:
    """Correct MiniStack, have ``prepare`` do more to it (it gets the address), and serve until told to stop."""
    listener = socket.socket(fileno=chosen.socket)
    port = listener.getsockname()[1]
    _correct(chosen)
    if prepare is not None:
        prepare(f"http://127.0.0.1:{port}")
    asyncio.run(_serve(listener))
    importlib.import_module("ministack.core.lambda_runtime").reset()
    shutil.rmtree(chosen.scratch, ignore_errors=True)
    # Background threads of services that nobody uses would keep the interpreter waiting.
    os._exit(0)


def _correct(chosen: argparse.Namespace) -> None:
    sqs = importlib.import_module("ministack.services.sqs")
    eventbridge = importlib.import_module("ministack.services.eventbridge")
    corrections = SqsCorrections(sqs, duplicates=chosen.duplicates, shuffle=chosen.shuffle)
    corrections.install()
    corrections.lock_producer(eventbridge, "_dispatch_to_sqs")
    ScheduleCorrections(eventbridge, importlib.import_module("ministack.services.scheduler")).install()


async def _serve(listener: socket.socket) -> None:
    app: Any = importlib.import_module("ministack.app").app
    hypercorn: Any = importlib.import_module("hypercorn.asyncio")
    config: Any = importlib.import_module("hypercorn.config").Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 0.2
    config.loglevel = "WARNING"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    threading.Thread(target=_watch_parent, args=(loop, stop), name="parent", daemon=True).start()
    await hypercorn.serve(app, config, shutdown_trigger=stop.wait)


def _watch_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop when the other end of standard input is gone: the parent closed it, or died."""
    sys.stdin.buffer.read()
    loop.call_soon_threadsafe(stop.set)
