"""Programs on a line as a whole: make it, read it, rename what it is about, erase it."""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import RENEW, Script

# Lua's stack bounds unpack(), so long lists are read in slices.
_BLOBS: Final = """
local function append_blobs(reply, key, names)
  for first = 1, #names, 1000 do
    local blobs = redis.call('HMGET', key, unpack(names, first, math.min(first + 999, #names)))
    for _, blob in ipairs(blobs) do reply[#reply + 1] = blob end
  end
  return reply
end
"""

CREATE: Final = Script(
    RENEW
    + """
-- Make a line with its first items. The root is random: a line that is there already was made by this very call.
-- KEYS 1 line, 2 items, 3 item, 4 ix
-- ARGV 1 metadata, 2 history ttl (s), 3 ix member, 4 the line's own history ttl (s) or '', then item id, blob, ...
-- Replies created (unix s)
local created = redis.call('HGET', KEYS[1], 'created')
if created then return tonumber(created) end
created = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], 'ver', 0, 'active', '', 'fence', 0, 'created', created, 'meta', ARGV[1])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'ttl', ARGV[4]) end
for i = 5, #ARGV, 2 do
  redis.call('RPUSH', KEYS[2], ARGV[i])
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
redis.call('SADD', KEYS[4], ARGV[3])
renew((ARGV[4] ~= '' and ARGV[4] or ARGV[2]) * 1000, KEYS[1], KEYS[2], KEYS[3], KEYS[4])
return created
"""
)

LOAD: Final = Script(
    _BLOBS
    + """
-- What a turn reads before it begins. Writes nothing.
-- KEYS 1 line, 2 items, 3 item
-- ARGV 1 newest items wanted (0: all), 2 oldest items wanted beside them, 3 id of the item to read up to ('': the end)
-- Replies {} without such a line or item, else {ver, active, hint or nil, created, meta, hidden or nil, last item's id
--      or nil, number of the oldest, blob of an oldest, ..., blob, ...}, oldest item first; the blob of an erased item
--      is nil
local head = redis.call('HMGET', KEYS[1], 'ver', 'active', 'hint', 'created', 'meta', 'hidden')
if not head[1] then return {} end
local last = -1
if ARGV[3] ~= '' then
  last = redis.call('LPOS', KEYS[2], ARGV[3], 'RANK', -1)
  if not last then return {} end
end
local num, first = tonumber(ARGV[1]), 0
if num > 0 then
  first = (last < 0 and redis.call('LLEN', KEYS[2]) or last + 1) - num
  if first < 0 then first = 0 end
end
local oldest = {}
if ARGV[2] ~= '0' then
  local most = tonumber(ARGV[2]) - 1
  if last >= 0 and last < most then most = last end
  oldest = redis.call('LRANGE', KEYS[2], 0, most)
end
head[7] = redis.call('LINDEX', KEYS[2], -1)
head[8] = #oldest
append_blobs(head, KEYS[3], oldest)
return append_blobs(head, KEYS[3], redis.call('LRANGE', KEYS[2], first, last))
"""
)

METADATA: Final = Script(
    RENEW
    + """
-- Replace a conversation's metadata, whatever it is busy with. A busy line has had its time from its turn, which may
-- wait for longer than history lives, and gets it anew when that ends.
-- KEYS 1 line, 2 items, 3 item, 4 ix
-- ARGV 1 metadata, 2 history ttl (s) of a line without its own
-- Replies {'absent'} or {'ok', created}
local head = redis.call('HMGET', KEYS[1], 'created', 'hidden', 'ttl', 'active')
if not head[1] or head[2] then return {'absent'} end
redis.call('HSET', KEYS[1], 'meta', ARGV[1])
if head[4] == '' then renew((head[3] or ARGV[2]) * 1000, KEYS[1], KEYS[2], KEYS[3], KEYS[4]) end
return {'ok', tonumber(head[1])}
"""
)

ERASE: Final = Script("""
-- Erase what somebody made as a conversation, and leave a tombstone: nothing further can begin. What the caller has
-- named no keys of yet is answered as 'more', a slice at a time, so that a long history does not hold the server up.
-- Deleting comes first because a server out of memory refuses SADD unless the script has already written.
-- KEYS 1 gone, 2 main line, 3 its items, 4 item, 5 ix, then those of the other lines and of the turns
-- ARGV 1 tombstone ttl (s), 2 random name of this erasure (so that it, sent again, knows its own work), then the ix
--      members whose keys are given
-- Replies {'absent'}, {'ok'} or {'more', ix member, ...}
if redis.call('EXISTS', KEYS[2], KEYS[5]) == 0 then
  return {redis.call('SISMEMBER', KEYS[1], ARGV[2]) == 1 and 'ok' or 'absent'}
end
-- Under a tombstone, what is left belongs to an erasure that was cut short.
if redis.call('SISMEMBER', KEYS[1], '*') == 0 then
  local head = redis.call('HMGET', KEYS[2], 'ver', 'hidden')
  if not head[1] or head[2] then return {'absent'} end
end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4])
redis.call('SADD', KEYS[1], '*', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
for i = 6, #KEYS do redis.call('UNLINK', KEYS[i]) end
for i = 3, #ARGV do redis.call('SREM', KEYS[5], ARGV[i]) end
local left = redis.call('SRANDMEMBER', KEYS[5], 1000)
if #left == 0 then return {'ok'} end
return {'more', unpack(left)}
""")
