"""The steps of the Redis broker that must happen as one, in Lua.

A script is not undone when a command in it fails, so each writes a message to its new place before it removes it from
the old one. Times come from the server's clock, in milliseconds. `docs/redis.md` describes the keys.
"""

from __future__ import annotations

from typing import Final

from dispatcher.redis_connection import Script

# Scripts that begin so get the keys of one queue in this order, and the consumer group as their first argument.
_PRELUDE: Final = """
local ready, delayed, leases, levels, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function stream_of(level)
  if level == '0' then return ready end
  return ready .. ':' .. level
end

-- The priority levels in use, the most urgent first.
local function levels_in_use()
  local found = redis.call('SMEMBERS', levels)
  found[#found + 1] = '0'
  table.sort(found)
  return found
end

local function named(fields)
  local values = {}
  for i = 1, #fields, 2 do values[fields[i]] = fields[i + 1] end
  return values
end

-- A delayed message: id, receipts so far, time of sending, priority level, body. The time may be left out.
local function pack_delayed(id, count, sent, level, body)
  return table.concat({id, count, sent, level, body}, ' ')
end

-- Move delayed messages that are due to their streams.
local function promote()
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, 256)
  for _, packed in ipairs(due) do
    local id, count, sent, level, body = string.match(packed, '^(%S+) (%d+) (%d*) (%d) (.*)$')
    local fields = id and {'b', body, 'n', count, 'i', id, 't', sent} or {'b', packed} -- another program's
    local added = redis.pcall('XADD', stream_of(level or '0'), '*', unpack(fields))
    if type(added) == 'table' then return end -- out of memory: reading on is what frees some
    redis.call('ZREM', delayed, packed)
  end
end

-- Return a stream's group of consumers, as XINFO shows them; make the group if there is none.
local function consumers_of(stream)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
  if not consumers.err then return consumers end
  redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
  return {}
end

-- Call `found(stream, level, id, count)` for up to `limit` leases that have ended; remove consumers that hold no lease
-- and have not been heard of for `silence` milliseconds.
-- A lease lasts as long as its consumer's name says, or until the time in `leases` where it was extended.
local function for_ended_leases(stream, level, limit, silence, found)
  local seen = 0
  for _, packed in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, limit)) do
    local at, id = string.match(packed, '^(%d) (.+)$')
    if at == level then
      local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
      if pending then found(stream, level, id, pending[4]) end
      redis.call('ZREM', leases, packed)
      seen = seen + 1
    end
  end
  local extended = redis.call('ZCARD', leases) > 0
  for _, fields in ipairs(consumers_of(stream)) do
    local consumer = named(fields)
    if consumer.pending == 0 then
      if consumer.idle > silence then redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer.name) end
    else
      local lease = string.match(consumer.name, '^%d+')
      local start = '-'
      while seen < limit do
        local page = redis.call('XPENDING', stream, group, 'IDLE', lease, start, '+', 100, consumer.name)
        for _, pending in ipairs(page) do
          if seen < limit and not (extended and redis.call('ZSCORE', leases, level .. ' ' .. pending[1])) then
            found(stream, level, pending[1], pending[4])
            seen = seen + 1
          end
          start = '(' .. pending[1]
        end
        if #page < 100 then break end
      end
    end
  end
end
"""

#: Arguments: consumer, limit, whether to look for ended leases, when to remove silent consumers in milliseconds.
#: Returns milliseconds until the next delayed message (-1: none), the levels in use, and per delivery: level, id,
#: receipts by this id, fields.
RECEIVE: Final = Script(
    _PRELUDE
    + """
local consumer, limit, look = ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local taken = {}
promote()
local used = levels_in_use()
for _, level in ipairs(used) do
  local stream = stream_of(level)
  if look then
    for_ended_leases(stream, level, limit - #taken, tonumber(ARGV[5]), function(stream, level, id, count)
      local entry = redis.call('XCLAIM', stream, group, consumer, 0, id)[1]
      if entry then
        taken[#taken + 1] = {level, id, count + 1, entry[2]}
      else -- its worker died after it had removed the message and before it had removed the lease
        redis.call('XACK', stream, group, id)
      end
    end)
  end
  if #taken < limit then
    local read = {'XREADGROUP', 'GROUP', group, consumer, 'COUNT', limit - #taken, 'STREAMS', stream, '>'}
    local reply = redis.pcall(unpack(read))
    if reply and reply.err then
      consumers_of(stream)
      reply = redis.call(unpack(read))
    end
    if reply then
      for _, entry in ipairs(reply[1][2]) do taken[#taken + 1] = {level, entry[1], 1, entry[2]} end
    end
  end
end
local next = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
return {next and math.max(0, next - now) or -1, table.concat(used), taken}
"""
)

#: Arguments: delay in milliseconds, id, priority level, body.
DELAY: Final = Script(
    _PRELUDE
    + """
local level = ARGV[4]
if level ~= '0' then redis.call('SADD', levels, level) end
redis.call('ZADD', delayed, now + ARGV[2], pack_delayed(ARGV[3], 0, now, level, ARGV[5]))
"""
)

#: Arguments, for each settlement: action, level, id, consumer, receipts by this id, all receipts so far, delay in
#: milliseconds, reason, whether the body is replaced, body. Only what is still leased under that receipt is touched.
SETTLE: Final = Script(
    _PRELUDE
    + """
for i = 2, #ARGV, 10 do
  local action, level, id, consumer, count = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
  local stream = stream_of(level)
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  local lease = found[1]
  if lease and lease[2] == consumer and lease[4] == count then
    local entry = redis.call('XRANGE', stream, id, id)[1]
    if entry and action ~= 'ack' then
      local fields = named(entry[2])
      local again = entry[2][1] == 'b' and fields.n and string.find(fields.i or '', '^%S+$')
        and string.find(fields.t or '', '^%d+$') -- else it is new, or another program's
      local message, sent = again and fields.i or id, again and fields.t or string.match(id, '^%d+')
      local body = ARGV[i + 8] == '1' and ARGV[i + 9] or entry[2][2]
      local receipts, delay = ARGV[i + 5], tonumber(ARGV[i + 6])
      if action == 'dead' then
        redis.call('XADD', dead, '*', 'b', body, 'i', message, 'r', ARGV[i + 7], 'l', level)
      elseif delay > 0 then
        redis.call('ZADD', delayed, now + delay, pack_delayed(message, receipts, sent, level, body))
      else
        redis.call('XADD', stream, '*', 'b', body, 'n', receipts, 'i', message, 't', sent)
      end
    end
    redis.call('XDEL', stream, id)
    redis.call('XACK', stream, group, id)
    redis.call('ZREM', leases, level .. ' ' .. id)
  end
end
"""
)

#: Arguments: milliseconds; then for each delivery: level, id, consumer, receipts by this id.
EXTEND: Final = Script(
    _PRELUDE
    + """
for i = 3, #ARGV, 4 do
  local level, id = ARGV[i], ARGV[i + 1]
  local lease = redis.pcall('XPENDING', stream_of(level), group, id, id, 1)[1]
  if lease and lease[2] == ARGV[i + 2] and lease[4] == tonumber(ARGV[i + 3]) then
    redis.call('ZADD', leases, now + ARGV[2], level .. ' ' .. id)
  end
end
"""
)

#: Returns how many messages are ready, delayed, in flight and dead.
COUNT: Final = Script(
    _PRELUDE
    + """
promote()
local waiting, leased = 0, 0
for _, level in ipairs(levels_in_use()) do
  local stream = stream_of(level)
  local pending = redis.pcall('XPENDING', stream, group)
  local held = pending.err and 0 or pending[1]
  waiting = waiting + math.max(0, redis.call('XLEN', stream) - held)
  leased = leased + held
end
return {waiting, redis.call('ZCARD', delayed), leased, redis.call('XLEN', dead)}
"""
)

#: Arguments: ids of dead letters. Returns how many of them were there and were moved back, to the level they had.
REDRIVE: Final = Script(
    _PRELUDE
    + """
local moved = 0
for i = 2, #ARGV do
  local entry = redis.call('XRANGE', dead, ARGV[i], ARGV[i])[1]
  if entry then
    local fields = named(entry[2])
    local level = fields.l or '0'
    if level ~= '0' then redis.call('SADD', levels, level) end
    redis.call('XADD', stream_of(level), '*', 'b', fields.b)
    redis.call('XDEL', dead, ARGV[i])
    moved = moved + 1
  end
end
return moved
"""
)

#: Arguments: how many messages to remove at most from each place. Returns how many were removed; 0: none are left.
PURGE: Final = Script(
    _PRELUDE
    + """
local most = tonumber(ARGV[2])
local removed = redis.call('ZREMRANGEBYRANK', delayed, 0, most - 1)
local function remove(stream, level, id)
  removed = removed + redis.call('XDEL', stream, id)
  redis.call('XACK', stream, group, id)
end
for _, level in ipairs(levels_in_use()) do
  local stream = stream_of(level)
  for_ended_leases(stream, level, most, math.huge, remove)
  local read = redis.call('XREADGROUP', 'GROUP', group, 'purge', 'COUNT', most, 'NOACK', 'STREAMS', stream, '>')
  redis.call('XGROUP', 'DELCONSUMER', stream, group, 'purge')
  for _, entry in ipairs(read and read[1][2] or {}) do removed = removed + redis.call('XDEL', stream, entry[1]) end
end
return removed
"""
)

#: Goes behind a read that leased messages. Keys: streams. Arguments: group, consumer, most messages of a stream, what
#: a record's key is before and after the id, and for each stream the id of a message before those that were leased.
#: Returns ids of tasks, as their bodies begin with, and their records.
RECORDS: Final = Script(
    """
local group, consumer, most, before, after = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ids, keys = {}, {}
for i, stream in ipairs(KEYS) do
  for _, pending in ipairs(redis.call('XPENDING', stream, group, '(' .. ARGV[5 + i], '+', most, consumer)) do
    local entry = redis.call('XRANGE', stream, pending[1], pending[1])[1]
    local id = entry and string.match(entry[2][2], '^{"v":%d+,"id":"([^"\\\\\\128-\\255]+)"')
    if id then
      ids[#ids + 1] = id
      keys[#keys + 1] = before .. id .. after
    end
  end
end
if #ids == 0 then return {{}, {}} end
return {ids, redis.call('MGET', unpack(keys))}
"""
)
