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

# The arguments of each write: what it was decided on, "gen attempt kind" (kind is 1 if final, "start" for one that must
# be the only one), expiry in milliseconds since the epoch, the new record.
_CONDITIONAL: Final = (
    _PRELUDE
    + """
-- Whether the write at `at` may replace a record, and the revocation that outlives it.
local function judge(old, at)
  if not old then return true, '0' end
  local gen, attempt, kind = string.match(ARGV[at], '^(%-?%d+) (%d+) (%w+)$')
  gen = tonumber(gen)
  local revoked, old_gen, retries, was_final, starts = string.match(old, '^(%d) (%-?%d+) (%d+) (%d) (%d+)')
  old_gen = tonumber(old_gen)
  local applies = old_gen < gen or (old_gen == gen and was_final == '0' and tonumber(retries) == tonumber(attempt))
  local started = old_gen == gen and starts ~= '0' and kind == 'start'
  return applies and not started, revoked
end

local function set(key, at, revoked)
  local expiry, record = ARGV[at + 1], ARGV[at + 2]
  if revoked ~= '0' then
    record = revoked .. string.sub(record, 2)
    expiry = later(key, tonumber(expiry))
  end
  redis.call('SET', key, record, 'PXAT', expiry)
  return record
end

-- Hand final records to those who wait for them. Hardly anybody ever does, so all are asked for at once.
local function wake(written)
  local notes = {}
  for i in pairs(written) do notes[#notes + 1] = waiters_of(KEYS[i]) end
  if #notes == 0 or redis.call('EXISTS', unpack(notes)) == 0 then return end
  for i, record in pairs(written) do
    if string.sub(ARGV[3 * i - 2], -2) == ' 1' then
      local note = waiters_of(KEYS[i])
      for _, inbox in ipairs(redis.call('SMEMBERS', note)) do
        redis.call('RPUSH', inbox, record)
        redis.call('PEXPIRE', inbox, 10000)
      end
      redis.call('DEL', note)
    end
  end
end
"""
)

# Most writes are the first of their record, and cost one command.
_WRITE: Final = """
local answers, written = {}, {}
for i = 1, count do
  local key, at = KEYS[i], 3 * i - 2
  answers[i] = false
  if redis.call('SET', key, ARGV[at + 2], 'NX', 'PXAT', ARGV[at + 1]) then
    written[i] = ARGV[at + 2]
  else
    local old = redis.call('GET', key)
    local applies, revoked = judge(old, at)
    if applies then
      written[i] = set(key, at, revoked)
    else
      answers[i] = old
    end
  end
end
wake(written)
"""
#: Keys: records. Arguments: a write for each. Returns for each nil, or the record that stood against the write.
WRITE: Final = Script(f"{_CONDITIONAL}local count = #KEYS{_WRITE}return answers")

#: As `WRITE`; what takes effect also acknowledges its message. Keys: the records, then their messages' streams.
#: Arguments: the writes, then their messages' ids, empty for none, then the groups that leased them.
WRITE_AND_REMOVE: Final = Script(
    f"{_CONDITIONAL}local count = #KEYS / 2{_WRITE}"
    """
for i in pairs(written) do
  local stream, id = KEYS[count + i], ARGV[3 * count + i]
  if id ~= '' then -- whatever is in the way now, the message comes again, and finds its outcome
    redis.pcall('XDEL', stream, id)
    redis.pcall('XACK', stream, ARGV[4 * count + i], id)
  end
end
return answers
"""
)

#: As `WRITE`, of different records, all or none: where any record stands, nothing is written.
WRITE_TOGETHER: Final = Script(
    _CONDITIONAL
    + """
local answers, flags, written, stood = {}, {}, {}, false
for i, key in ipairs(KEYS) do
  local old = redis.call('GET', key)
  local applies, revoked = judge(old, 3 * i - 2)
  answers[i], flags[i] = not applies and old, revoked
  stood = stood or not applies
end
if not stood then
  for i, key in ipairs(KEYS) do
    written[i] = set(key, 3 * i - 2, flags[i])
  end
  wake(written)
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

#: Keys: the record, the list that wants the final record. Argument: how long to remember that in milliseconds.
#: Returns the record if it is final, and writes nothing then.
WATCH: Final = Script(
    _PRELUDE
    + """
local record = redis.call('GET', KEYS[1])
if record and string.match(record, '^%d %-?%d+ %d+ (%d)') == '1' then
  return record
end
redis.pcall('SADD', waiters_of(KEYS[1]), KEYS[2]) -- out of memory: the caller looks again by itself
redis.call('PEXPIRE', waiters_of(KEYS[1]), ARGV[1])
return false
"""
)
