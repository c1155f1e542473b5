"""How many bytes one message takes."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench
from benchmarks.rows.row import OURS, REDIS_PRODUCERS, Bar, Row, Sample


def measure(bench: Bench, peer: str) -> Sample:
    """Send ``tasks.add`` with ``(1, 2)`` into an empty Redis and weigh what is there."""
    bench.redis.flushall()
    bench.probe(peer, "addition")
    sizes = [_value_size(bench.redis, key) for key in bench.redis.scan_iter()]
    return Sample(max(sizes), {"all values in Redis": sum(sizes)})


def _value_size(client: Any, key: bytes) -> int:
    """Return the bytes of a key's values; names of keys and fields are not counted."""
    match client.type(key):
        case b"string":
            return int(client.strlen(key))
        case b"list":
            return sum(map(len, client.lrange(key, 0, -1)))
        case b"hash":
            return sum(map(len, client.hvals(key)))
        case b"set":
            return sum(map(len, client.smembers(key)))
        case b"zset":
            return sum(map(len, client.zrange(key, 0, -1)))
        case b"stream":
            return sum(len(value) for _, fields in client.xrange(key) for value in fields.values())
        case other:
            raise ValueError(f"{key!r} is of an unknown type {other!r}")


ROW = Row(
    name="body",
    title="Body of `tasks.add` `(1, 2)`",
    unit="bytes",
    better="lower",
    method=(
        "One message is sent into an empty Redis. The value is the largest key's content: the list item, the stream "
        "entry's fields, the hash's values."
    ),
    contenders=(OURS, *REDIS_PRODUCERS),
    bars=(Bar(150),),
    measure=measure,
    budget=10.0,
    exact=True,
)
