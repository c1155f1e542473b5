"""Backlogs that are sent once and put back for every round after: some libraries send more slowly than they work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

#: Databases of the server; 0 is the one under measurement.
DATABASES: Final = 64
#: COPYs in one pipeline.
_BULK: Final = 5_000


class Backlogs:
    """Copies of what was in database 0 after sending, each in a database of its own.

    ``FLUSHALL`` drops them; they are made again then. A copy is the same values under the same keys, so the workers
    find what the producer left.
    """

    def __init__(self, client: Any) -> None:
        self._redis = client
        #: backlog -> its database, and the keys there
        self._kept: dict[str, tuple[int, int]] = {}

    def restore(self, name: str, send: Callable[[], Any]) -> None:
        """Empty database 0 and put a backlog there: the kept one, or what ``send`` puts there, which is then kept."""
        self._redis.flushdb()
        database, keys = self._kept.get(name, (0, 0))
        if database and self._size(database) == keys:
            self._copy(database, 0)
            return
        send()
        self._keep(name)

    def _keep(self, name: str) -> None:
        self._kept = {kept: (number, keys) for kept, (number, keys) in self._kept.items() if self._size(number) == keys}
        taken = {number for number, _ in self._kept.values()}
        free = [number for number in range(1, DATABASES) if number not in taken]
        if free:
            self._copy(0, free[0])
            self._kept[name] = (free[0], self._size(free[0]))

    def _size(self, database: int) -> int:
        return int(self._in(database, "DBSIZE")[0])

    def _copy(self, source: int, target: int) -> None:
        keys = list(self._redis.scan_iter(count=1_000)) if source == 0 else self._in(source, "KEYS", "*")[0]
        for start in range(0, len(keys), _BULK):
            commands = [("COPY", key, key, "DB", target) for key in keys[start : start + _BULK]]
            self._run(source, commands)

    def _in(self, database: int, *command: Any) -> list[Any]:
        return self._run(database, [command])

    def _run(self, database: int, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Run commands in a database, on one connection, and leave that in database 0."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.execute_command("SELECT", database)
            for command in commands:
                pipeline.execute_command(*command)
            pipeline.execute_command("SELECT", 0)
            return list(pipeline.execute()[1:-1])
