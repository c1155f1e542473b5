"""A producer in a process of its own: ``python -m benchmarks.probe PEER VERB [ARGUMENT ...]`` hands back one value.

``python -m benchmarks.probe PEER sends`` sends as many no-ops as each line of its input says, and hands back the
seconds of each turn; ``calls`` calls as many tasks, and hands back the seconds of each call.
"""

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
    name, verb = arguments[:2]
    peer: Peer = importlib.import_module(f"benchmarks.peers.{name}").PEER
    in_turns = {"sends": peer.send_in_turns, "calls": peer.call_in_turns}
    if verb in in_turns:
        for seconds in in_turns[verb](map(int, sys.stdin)):
            emit(seconds)
        return
    emit(run(peer, verb, *(int(each) if each.isdigit() else each for each in arguments[2:])))


def run(peer: Peer, verb: str, *arguments: int | str) -> Any:
    """Return what a verb yields: nothing, seconds, a list of seconds, bytes, or a description."""
    verbs: dict[str, Callable[..., Any]] = {
        "describe": lambda: describe(peer),
        "workers": lambda processes, concurrency=0: {
            "commands": peer.workers(processes, concurrency),
            "variables": peer.variables(concurrency),
        },
        "fill": peer.fill,
        "bulks": peer.time_bulks,
        "groups": peer.time_groups,
        "chord": lambda size: {"seconds": peer.time_chord(size), "peak": peak_bytes([os.getpid()])},
        "addition": peer.send_addition,
    }
    if verb not in verbs:
        raise SystemExit(f"error: no verb {verb!r}")
    return verbs[verb](*arguments)


def describe(peer: Peer) -> dict[str, Any]:
    """Return versions and settings for the report."""
    return {
        "versions": {package: version(package) for package in peer.packages},
        "settings": peer.settings,
        "on_kill": peer.on_kill,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
