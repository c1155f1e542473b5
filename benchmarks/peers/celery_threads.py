"""Celery with its pool of threads."""

from __future__ import annotations

from typing import ClassVar, Final

from benchmarks.peers.celery import PREFETCH, CeleryPeer, worker


class CeleryThreads(CeleryPeer):
    """The same app; one worker a process, each with its threads."""

    name: ClassVar[str] = "celery_threads"
    settings: ClassVar[str] = (
        f"the same app; two workers with --pool threads, one thread each unless tasks are to overlap; prefetch "
        f"multiplier {PREFETCH}"
    )

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one worker a process, each under a node name of its own."""
        command = worker("threads", max(concurrency, 1))
        return [[*command, "--hostname", f"threads{number}@%h"] for number in range(processes)]


PEER: Final = CeleryThreads()
