"""Joins in Redis: a hash with what is known of each, and a bitmap of the members that are done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from dispatcher.backends.base import ResultBackend
from dispatcher.backends.joins import Join, JoinMissing
from dispatcher.redis_connection import Command, RedisConnections, Script, pack

_FIELDS: Final = ("size", "body", "fired", "failed")
#: How far the ends of two lives that were meant to be the same may be apart, in seconds: as clocks are.
_ROUNDED: Final = 60.0
#: Records that are prolonged in one command.
_AT_ONCE: Final = 500

_PRELUDE: Final = """
-- Let the keys live until `expiry` at least; in milliseconds since the epoch.
local function prolong(expiry)
  local clock = redis.call('TIME')
  local left = expiry - (clock[1] * 1000 + math.floor(clock[2] / 1000))
  for _, key in ipairs(KEYS) do
    if redis.call('PTTL', key) < left then redis.call('PEXPIREAT', key, expiry) end
  end
end
local function answer()
  return redis.call('HMGET', KEYS[1], 'size', 'body', 'fired', 'failed')
end
"""

#: Keys: hash, bitmap. Arguments: size, body, expiry in milliseconds since the epoch.
_OPEN: Final = Script(
    _PRELUDE
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'size', ARGV[1], 'body', ARGV[2], 'fired', '0', 'failed', '', 'done', '0')
  redis.call('PEXPIREAT', KEYS[1], ARGV[3])
end
"""
)

#: Keys: hash, bitmap. Arguments: size, expiry, members.
#: Returns 0 for no join, else until when it lives in milliseconds since the epoch, and the join if it is complete.
_MARK: Final = Script(
    _PRELUDE
    + """
local done = tonumber(redis.call('HGET', KEYS[1], 'done'))
if not done then return 0 end
local fresh = 0
for number = 3, #ARGV do fresh = fresh + 1 - redis.call('SETBIT', KEYS[2], ARGV[number], 1) end
if fresh > 0 then done = redis.call('HINCRBY', KEYS[1], 'done', fresh) end
prolong(tonumber(ARGV[2]))
local clock = redis.call('TIME')
local life = clock[1] * 1000 + math.floor(clock[2] / 1000) + redis.call('PTTL', KEYS[1])
if done < tonumber(ARGV[1]) then return {life} end
return {life, answer()}
"""
)

#: Keys: hash, bitmap. Argument: expiry in milliseconds since the epoch.
_PROLONG_JOIN: Final = Script(
    _PRELUDE
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then prolong(tonumber(ARGV[1])) end
"""
)

#: Keys: records. Argument: expiry in milliseconds since the epoch.
_PROLONG: Final = Script(_PRELUDE + "prolong(tonumber(ARGV[1]))")

#: Keys: hash, bitmap. Arguments: 1 to set fired, what failed. Returns 0 for no join, else the join before.
_CLOSE: Final = Script(
    _PRELUDE
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local before = answer()
if ARGV[1] == '1' then redis.call('HSET', KEYS[1], 'fired', '1') end
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], 'failed') == '' then
  redis.call('HSET', KEYS[1], 'failed', ARGV[2])
end
return before
"""
)


class RedisJoins(ResultBackend):
    """The part of the Redis backend that keeps joins."""

    _settings: Any
    _connections: RedisConnections

    def open_join(self, join: Join, expires_at: float) -> None:
        """Keep a join."""
        self._script(_OPEN, join.id, (join.size, join.body, max(1, int(expires_at * 1000))))

    def mark_joined(
        self, join_id: str, members: Sequence[int], size: int, expires_at: float, ids: Sequence[str] = ()
    ) -> Join | None:
        """Mark members as done."""
        answer = self._script(_MARK, join_id, (size, max(1, int(expires_at * 1000)), *members))
        if answer == 0:
            raise JoinMissing(join_id)
        if answer[0] / 1000 > expires_at + _ROUNDED:
            self.prolong(ids, answer[0] / 1000)
        return _join(join_id, answer[1]) if len(answer) > 1 else None

    def prolong_join(self, join_id: str, expires_at: float) -> None:
        """Have a join live longer."""
        self._script(_PROLONG_JOIN, join_id, (max(1, int(expires_at * 1000)),))

    def prolong(self, ids: Sequence[str], expires_at: float) -> None:
        """Have records live longer."""
        for start in range(0, len(ids), _AT_ONCE):
            keys = [self._key(task_id) for task_id in ids[start : start + _AT_ONCE]]
            self._connections.run([_PROLONG.call(keys, (max(1, int(expires_at * 1000)),))])

    def close_join(self, join_id: str, *, fired: bool = False, failed: str = "") -> Join:
        """Set flags of a join."""
        return _join(join_id, self._script(_CLOSE, join_id, (int(fired), failed)))

    def read_joins(self, ids: Sequence[str]) -> dict[str, Join]:
        """Return joins, asked for in one pipeline."""
        keys = [self._join_key(join_id) for join_id in ids]
        commands = [Command(pack(*each)) for key in keys for each in (("HMGET", key, *_FIELDS), ("PTTL", key))]
        answers = self._connections.run(commands) if commands else []
        now = self.clock.time()
        return {
            id: dataclasses.replace(_join(id, answer), until=now + left / 1000)
            for id, answer, left in zip(ids, answers[::2], answers[1::2], strict=True) if answer[0] is not None
        }  # fmt: skip

    def _key(self, task_id: str) -> str:
        raise NotImplementedError

    def _join_key(self, join_id: str) -> str:
        return f"{self._settings.key_prefix}join:{{{join_id}}}"

    def _script(self, script: Script, join_id: str, arguments: Sequence[str | int]) -> Any:
        key = self._join_key(join_id)
        (answer,) = self._connections.run([script.call((key, f"{key}:done"), arguments)])
        return answer


def _join(join_id: str, answer: Any) -> Join:
    if answer == 0:
        raise JoinMissing(join_id)
    size, body, fired, failed = answer
    return Join(join_id, int(size), body.decode(), fired == b"1", failed.decode())
