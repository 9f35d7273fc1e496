"""The scripts of the worker's end of the queue: what has to happen in Redis in one step. Texts only.

Sent as text (EVAL): a Redis that was restarted or flushed then needs nothing from us.
"""

from __future__ import annotations

from query_service.transport.request_queue import ID_FIELD, MESSAGE_FIELD, STREAMS

_CANCELLED_KEY = len(STREAMS) + 1  # behind the streams, highest priority first

# What both scripts below begin and end with. One entry at a time is looked at: a message may have 64 MiB, and only
# who has it knows its size.
_COLLECTING = f"""
local found, bytes, cancelled = {{}}, 0, {{}}
for stream = 1, {len(STREAMS)} do found[stream] = {{KEYS[stream], {{}}}} end
local some_cancelled = redis.call('EXISTS', KEYS[{_CANCELLED_KEY}]) == 1
local function add(stream, entry)
  table.insert(found[stream][2], entry)
  for place = 1, #entry[2], 2 do
    local name, value = entry[2][place], entry[2][place + 1]
    if name == '{MESSAGE_FIELD}' then bytes = bytes + #value end
    if some_cancelled and name == '{ID_FIELD}' and redis.call('ZSCORE', KEYS[{_CANCELLED_KEY}], value) then
      table.insert(cancelled, value)
    end
  end
end
"""
_COLLECTED = "return {found, redis.call('TIME'), cancelled}"

# KEYS: the streams, highest priority first, then the cancelled ids. ARGV: group, consumer, how many at most, how many
# of them are kept for each lower priority, so that none starves, and bytes: no more are taken once so many have been.
# What is kept and not needed goes to everybody in order.
READ_SCRIPT = f"""
{_COLLECTING}
local left, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[5])
local function take(stream, places, until_bytes)
  while places > 0 and left > 0 and bytes < until_bytes do
    local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[stream], '>')
    if not read then return end
    add(stream, read[1][2][1])
    places, left = places - 1, left - 1
  end
end
local kept = tonumber(ARGV[4])
take(1, left - {len(STREAMS) - 1} * kept, most_bytes)
for stream = 2, {len(STREAMS)} do take(stream, kept, bytes + most_bytes / {2 * len(STREAMS)}) end
for stream = 1, {len(STREAMS)} do take(stream, left, most_bytes) end
{_COLLECTED}
"""

# KEYS as above. ARGV: group, consumer, idle ms, bytes as above, then the number of a stream and an entry for each that
# is wanted. Whatever another worker has got meanwhile is left out; before version 7 a deleted one is held for ever.
CLAIM_SCRIPT = f"""
{_COLLECTING}
for place = 5, #ARGV, 2 do
  if bytes >= tonumber(ARGV[4]) then break end
  local stream, entry = tonumber(ARGV[place]), ARGV[place + 1]
  local claimed = redis.call('XCLAIM', KEYS[stream], ARGV[1], ARGV[2], ARGV[3], entry)
  if #claimed > 0 and claimed[1] then
    add(stream, claimed[1])
  elseif #claimed > 0 then
    redis.call('XACK', KEYS[stream], ARGV[1], entry)
  end
end
{_COLLECTED}
"""

# So that nobody is removed between looking and removing. KEYS: a stream. ARGV: group, idle ms.
FORGET_SCRIPT = """
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local one = {}
  for place = 1, #flat, 2 do one[flat[place]] = flat[place + 1] end
  if one['pending'] == 0 and one['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], one['name'])
  end
end
return 1
"""

# One step, so that a search is forgotten when it is replied to, and not before. Replies first: a server that is full
# refuses them, and then nothing was done.
# KEYS: the streams, the cancelled ids, then for each search the key of its reply. ARGV: group, life of a reply in ms,
# then for each search the number of its stream, its entry, its reply ("": nobody waits), and its id if it was
# cancelled, else "".
SETTLE_SCRIPT = f"""
local others = {len(STREAMS) + 1}
for place = others + 1, #KEYS do
  local reply = ARGV[2 + 4 * (place - others - 1) + 3]
  if reply ~= '' then
    redis.call('RPUSH', KEYS[place], reply)
    redis.call('PEXPIRE', KEYS[place], ARGV[2])
  end
end
for place = 3, #ARGV, 4 do
  local stream = KEYS[tonumber(ARGV[place])]
  redis.call('XACK', stream, ARGV[1], ARGV[place + 1])
  redis.call('XDEL', stream, ARGV[place + 1])
  if ARGV[place + 3] ~= '' then redis.call('ZREM', KEYS[others], ARGV[place + 3]) end
end
return 1
"""
