"""The steps of the Redis result backend that must happen as one, in Lua.

A record is one string: its fields in a line, see `dispatcher.backends.redis`, of which the scripts read the first five
(revoked, gen, retries, final, starts). Whoever waits for a record has left the name of a list of its own in the set
beside it.
"""

from __future__ import annotations

from typing import Final

from dispatcher.redis_connection import Script

_PRELUDE: Final = """
local function waiters_of(key) return key .. ':waiters' end

-- How long a revoked record still has to live, and at least until `expiry`; in milliseconds since the epoch.
local function later(key, expiry)
  local left = redis.call('PTTL', key)
  if left < 0 then return expiry end
  local clock = redis.call('TIME')
  return math.max(expiry, clock[1] * 1000 + math.floor(clock[2] / 1000) + left)
end
"""

_CONDITIONAL: Final = (
    _PRELUDE
    + """
-- Whether the write at `at` may replace a record, and the revocation that outlives it.
local function judge(old, at)
  if not old then return true, '0' end
  local gen, attempt = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local revoked, old_gen, retries, was_final, starts = string.match(old, '^(%d) (%-?%d+) (%d+) (%d) (%d+)')
  old_gen = tonumber(old_gen)
  local applies = old_gen < gen or (old_gen == gen and was_final == '0' and tonumber(retries) == attempt)
  local started = old_gen == gen and starts ~= '0' and ARGV[at + 2] == 'start'
  return applies and not started, revoked
end

local function apply(key, at, revoked)
  local final, expiry, record = ARGV[at + 2] == '1', tonumber(ARGV[at + 3]), ARGV[at + 4]
  if revoked ~= '0' then
    record = revoked .. string.sub(record, 2)
    expiry = later(key, expiry)
  end
  redis.call('SET', key, record, 'PXAT', expiry)
  if final then
    local waiters = redis.call('SMEMBERS', waiters_of(key))
    for _, inbox in ipairs(waiters) do
      redis.call('RPUSH', inbox, record)
      redis.call('PEXPIRE', inbox, 10000)
    end
    if #waiters > 0 then redis.call('DEL', waiters_of(key)) end
  end
end
"""
)

#: Keys: records. Arguments, for each: gen, attempt, 1 if final, "start" for one that must be the only one, expiry in
#: milliseconds since the epoch, the new record.
#: Returns for each nil, or the record that stood against the write.
WRITE: Final = Script(
    _CONDITIONAL
    + """
local answers = {}
for i, key in ipairs(KEYS) do
  local old = redis.call('GET', key)
  local applies, revoked = judge(old, 5 * i - 4)
  answers[i] = not applies and old
  if applies then apply(key, 5 * i - 4, revoked) end
end
return answers
"""
)

#: As `WRITE`, of different records, all or none: where any record stands, nothing is written.
WRITE_TOGETHER: Final = Script(
    _CONDITIONAL
    + """
local answers, flags, stood = {}, {}, false
for i, key in ipairs(KEYS) do
  local old = redis.call('GET', key)
  local applies, revoked = judge(old, 5 * i - 4)
  answers[i], flags[i] = not applies and old, revoked
  stood = stood or not applies
end
if not stood then
  for i, key in ipairs(KEYS) do apply(key, 5 * i - 4, flags[i]) end
end
return answers
"""
)

#: Keys: records. Arguments: expiry in milliseconds since the epoch, the record of a task that is not known yet, which
#: begins with what is asked. A mere flag (1) takes no termination back.
REVOKE: Final = Script(
    _PRELUDE
    + """
for _, key in ipairs(KEYS) do
  local expiry = tonumber(ARGV[1])
  local old = redis.call('GET', key)
  local revoked = string.sub(ARGV[2], 1, 1)
  if old then
    expiry = later(key, expiry)
    if revoked == '1' and string.sub(old, 1, 1) ~= '0' then revoked = string.sub(old, 1, 1) end
  end
  redis.call('SET', key, old and revoked .. string.sub(old, 2) or ARGV[2], 'PXAT', expiry)
end
"""
)

#: Keys: a rate limit's next slot. Arguments, times in microseconds: the earliest it can be, how far slots are apart,
#: how many are wanted, the latest they may be or nothing. Returns the first slot and how many were taken.
TAKE_SLOTS: Final = Script(
    """
local floor, step, count, latest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local first = math.max(tonumber(redis.call('GET', KEYS[1]) or ARGV[1]), floor)
local taken = count
if latest then taken = math.max(0, math.min(count, math.floor((latest - first) / step) + 1)) end
if taken > 0 then
  local following = first + taken * step
  -- It may go once it has passed, which nobody can tell then; an hour more, because clocks differ.
  local life = math.ceil((following - floor) / 1000) + 3600000
  redis.call('SET', KEYS[1], string.format('%.0f', following), 'PX', string.format('%.0f', life))
end
return {string.format('%.0f', first), taken}
"""
)

#: Keys: the record. Arguments: the list that wants the final record, how long to remember that in milliseconds.
#: Returns the record if it is final.
WATCH: Final = Script(
    _PRELUDE
    + """
local record = redis.call('GET', KEYS[1])
if record and string.match(record, '^%d %-?%d+ %d+ (%d)') == '1' then return record end
redis.pcall('SADD', waiters_of(KEYS[1]), ARGV[1]) -- out of memory: the caller looks again by itself
redis.call('PEXPIRE', waiters_of(KEYS[1]), ARGV[2])
return false
"""
)
