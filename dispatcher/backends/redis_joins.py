"""Joins in Redis: a hash with what is known of each, and a bitmap of the members that are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dispatcher.backends.base import ResultBackend
from dispatcher.backends.joins import Join, JoinMissing
from dispatcher.redis_connection import Command, RedisConnections, Script, pack

_FIELDS: Final = ("size", "body", "fired", "failed")

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

#: Keys: hash, bitmap. Arguments: size, expiry, members. Returns 0 for no join, 1 while some are missing, or the join.
_MARK: Final = Script(
    _PRELUDE
    + """
local done = tonumber(redis.call('HGET', KEYS[1], 'done'))
if not done then return 0 end
local fresh = 0
for number = 3, #ARGV do fresh = fresh + 1 - redis.call('SETBIT', KEYS[2], ARGV[number], 1) end
if fresh > 0 then done = redis.call('HINCRBY', KEYS[1], 'done', fresh) end
prolong(tonumber(ARGV[2]))
if done < tonumber(ARGV[1]) then return 1 end
return answer()
"""
)

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

    def mark_joined(self, join_id: str, members: Sequence[int], size: int, expires_at: float) -> Join | None:
        """Mark members as done."""
        answer = self._script(_MARK, join_id, (size, max(1, int(expires_at * 1000)), *members))
        return None if answer == 1 else _join(join_id, answer)

    def close_join(self, join_id: str, *, fired: bool = False, failed: str = "") -> Join:
        """Set flags of a join."""
        return _join(join_id, self._script(_CLOSE, join_id, (int(fired), failed)))

    def read_joins(self, ids: Sequence[str]) -> dict[str, Join]:
        """Return joins, asked for in one pipeline."""
        commands = [Command(pack("HMGET", self._join_key(join_id), *_FIELDS)) for join_id in ids]
        answers = self._connections.run(commands) if commands else []
        return {id: _join(id, answer) for id, answer in zip(ids, answers, strict=True) if answer[0] is not None}

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
