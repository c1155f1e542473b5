"""No library at all: XADD, and a loop around XREADGROUP that does the same side effect. The limit for the others."""

from __future__ import annotations

import os
import sys
from typing import Any, ClassVar, Final

import redis

from benchmarks import work
from benchmarks.peers.base import SyncPeer

STREAM: Final = "bench:stream"
GROUP: Final = "bench"
BATCH: Final = 100
#: As long as the body of a no-op of ours.
BODY: Final = b'{"v":1,"id":"a7c5ac5c-9a3b-4a52-8fc7-3b4bd5b40f5c","task":"tasks.tick"}'


class Bare(SyncPeer):
    """XADD one by one or pipelined; XREADGROUP of up to 100, one INCR an entry, one XACK and XDEL a batch."""

    name: ClassVar[str] = "bare"
    packages: ClassVar[tuple[str, ...]] = ("redis", "hiredis")
    settings: ClassVar[str] = f"XREADGROUP COUNT {BATCH}, one INCR an entry, XACK and XDEL a batch; redis-py, hiredis"
    on_kill: ClassVar[str] = "stay pending in the stream"

    def __init__(self) -> None:
        self._client = redis.Redis.from_url(work.REDIS_URL)

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one loop a process."""
        return [[sys.executable, "-m", "benchmarks.peers.bare"]] * processes

    def send(self) -> None:
        """Add one entry."""
        self._client.xadd(STREAM, {"body": BODY})

    def send_work(self, work: str) -> None:
        """Refuse: the loop knows the no-op only."""
        raise NotImplementedError(f"the bare loop cannot {work}")

    def send_many(self, count: int) -> None:
        """Add entries in one pipeline."""
        with self._client.pipeline(transaction=False) as pipeline:
            for _ in range(count):
                pipeline.xadd(STREAM, {"body": BODY})
            pipeline.execute()

    def send_addition(self) -> None:
        """Add one entry; its body means nothing here."""
        self.send()


def main() -> None:
    """Read entries, count each, acknowledge batches, for ever."""
    client: Any = redis.Redis.from_url(work.REDIS_URL)
    try:
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    consumer = str(os.getpid())
    while True:
        for _, entries in client.xreadgroup(GROUP, consumer, {STREAM: ">"}, count=BATCH, block=1000) or ():
            for _ in entries:
                work.tick()
            ids = [entry_id for entry_id, _ in entries]
            with client.pipeline(transaction=False) as pipeline:
                pipeline.xack(STREAM, GROUP, *ids)
                pipeline.xdel(STREAM, *ids)
                pipeline.execute()


PEER: Final = Bare()

if __name__ == "__main__":
    main()
