"""A producer in a process of its own: ``python -m benchmarks.probe PEER VERB [COUNT]`` hands back one value."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.outcome import emit
from benchmarks.peers.base import Peer
from benchmarks.processes import peak_bytes


def main(arguments: list[str]) -> None:
    """Run one verb of one peer."""
    name, verb, count = arguments[0], arguments[1], int(arguments[2]) if len(arguments) > 2 else 0
    peer: Peer = importlib.import_module(f"benchmarks.peers.{name}").PEER
    emit(run(peer, verb, count))


def run(peer: Peer, verb: str, count: int) -> Any:
    """Return what a verb yields: nothing, seconds, a list of seconds, bytes, or a description."""
    verbs: dict[str, Callable[[], Any]] = {
        "describe": lambda: describe(peer),
        "workers": lambda: {"commands": peer.workers(count), "variables": peer.variables()},
        "fill": lambda: peer.fill(count),
        "sends": lambda: peer.time_sends(count),
        "bulks": lambda: peer.time_bulks(count),
        "calls": lambda: peer.time_calls(count),
        "groups": lambda: peer.time_groups(count),
        "chord": lambda: {"seconds": peer.time_chord(count), "peak": peak_bytes([os.getpid()])},
        "addition": peer.send_addition,
    }
    if verb not in verbs:
        raise SystemExit(f"error: no verb {verb!r}")
    return verbs[verb]()


def describe(peer: Peer) -> dict[str, Any]:
    """Return versions and settings for the report."""
    return {
        "versions": {package: version(package) for package in peer.packages},
        "settings": peer.settings,
        "on_kill": peer.on_kill,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
