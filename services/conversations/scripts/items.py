"""Programs on the items of a conversation: read one, some or a page, append, delete.

An item belongs to a conversation when its id is in the main line's list; the hash of blobs is shared by all branches.
A turn was begun on the items that it read, so while one is active nobody else changes them.
"""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import RENEW, Script

# A record that is gone altogether (a crash, then its TTL) no longer holds the line, as in BEGIN.
_HELD: Final = """
local function held(active, seen, record)
  if active == '' then return nil end
  if active ~= seen then return {'look', 0, active} end
  if redis.call('EXISTS', record) == 1 then return {'busy', 0, active} end
end
"""

ITEM: Final = Script("""
-- One item of a conversation. Writes nothing.
-- KEYS 1 line, 2 items, 3 item
-- ARGV 1 item id
-- Replies {'absent'} (no such conversation), {'unknown'} (no such item) or {'ok', blob}
local head = redis.call('HMGET', KEYS[1], 'ver', 'hidden')
if not head[1] or head[2] then return {'absent'} end
local blob = redis.call('HGET', KEYS[3], ARGV[1])
if not blob or not redis.call('LPOS', KEYS[2], ARGV[1]) then return {'unknown'} end
return {'ok', blob}
""")

PAGE: Final = Script("""
-- One page of items, those whose blob is gone left out. Writes nothing.
-- KEYS 1 line, 2 items, 3 item
-- ARGV 1 item id to start behind ('' for the start), 2 limit, 3 '1' for newest first
-- Replies {'absent'} (no such conversation), {'unknown'} (no such item), or {'ok', more (0 or 1), blob, ...} in the
--      order asked for
local head = redis.call('HMGET', KEYS[1], 'ver', 'hidden')
if not head[1] or head[2] then return {'absent'} end
local step = ARGV[3] == '1' and -1 or 1
local at = step == 1 and 0 or redis.call('LLEN', KEYS[2]) - 1
if ARGV[1] ~= '' then
  at = redis.call('LPOS', KEYS[2], ARGV[1])
  if not at then return {'unknown'} end
  at = at + step
end
local wanted = ARGV[2] + 1 -- one item too many tells that there are more
local reply = {'ok', 0}
while #reply < wanted + 2 and at >= 0 do
  local far = at + step * (wanted - 1)
  local names = redis.call('LRANGE', KEYS[2], math.max(math.min(at, far), 0), math.max(at, far))
  if #names == 0 then break end
  local blobs = redis.call('HMGET', KEYS[3], unpack(names))
  for i = step == 1 and 1 or #names, step == 1 and #names or 1, step do
    if blobs[i] and #reply < wanted + 2 then reply[#reply + 1] = blobs[i] end
  end
  at = far + step
end
if #reply == wanted + 2 then
  reply[2] = 1
  reply[#reply] = nil
end
return reply
""")

NAMES: Final = Script("""
-- Ids of all items of a conversation, oldest first. Writes nothing.
-- KEYS 1 line, 2 items
-- Replies {'absent'} or {'ok', ids}
local head = redis.call('HMGET', KEYS[1], 'ver', 'hidden')
if not head[1] or head[2] then return {'absent'} end
return {'ok', redis.call('LRANGE', KEYS[2], 0, -1)}
""")

READ: Final = Script("""
-- Items by their ids. Writes nothing.
-- KEYS 1 line, 2 item
-- ARGV item ids, at most 1,000
-- Replies {'absent'} or {'ok', blobs}; the blob of an erased item is nil
local head = redis.call('HMGET', KEYS[1], 'ver', 'hidden')
if not head[1] or head[2] then return {'absent'} end
return {'ok', redis.call('HMGET', KEYS[2], unpack(ARGV))}
""")

APPEND: Final = Script(
    _HELD
    + RENEW
    + """
-- Put items at a conversation's end. Their ids are drawn for this very call: when the first one is known, or was
-- deleted since, the call is sent again.
-- KEYS 1 line, 2 items, 3 item, 4 ix, 5 gone, 6 record of the turn named by ARGV 1
-- ARGV 1 turn id last seen active (or ''), 2 history ttl (s) of a line without its own, 3 most items, then item id,
--      blob, ...
-- Replies {'ok'}, {'absent'}, {'full', items held}, {'busy', 0, turn}; {'look', 0, turn} when the line is active with
--      another turn than ARGV 1: call again with that turn's key
local line = redis.call('HMGET', KEYS[1], 'active', 'hidden', 'ttl')
if not line[1] or line[2] then return {'absent'} end
if redis.call('HEXISTS', KEYS[3], ARGV[4]) == 1 then return {'ok'} end
if redis.call('SISMEMBER', KEYS[5], 'item:' .. ARGV[4]) == 1 then return {'ok'} end
local refusal = held(line[1], ARGV[1], KEYS[6])
if refusal then return refusal end
local length = redis.call('LLEN', KEYS[2])
if length + (#ARGV - 3) / 2 > tonumber(ARGV[3]) then return {'full', length} end
for i = 4, #ARGV, 2 do
  redis.call('RPUSH', KEYS[2], ARGV[i])
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
redis.call('HINCRBY', KEYS[1], 'ver', 1)
renew((line[3] or ARGV[2]) * 1000, KEYS[1], KEYS[2], KEYS[3], KEYS[4])
return {'ok'}
"""
)

DELETE: Final = Script(
    _HELD
    + RENEW
    + """
-- Take one item out of a conversation, and the ids of an answer out of its turn's record, for they are the same text.
-- Branches that share the item skip it from now on. Deleting comes first because a
-- server out of memory refuses SADD unless the script has already written.
-- KEYS 1 line, 2 items, 3 item, 4 ix, 5 gone, 6 record of the turn named by ARGV 1, 7 record of the turn that wrote the
--      item (or any key that is no such record)
-- ARGV 1 turn id last seen active (or ''), 2 history ttl (s) of a line without its own, 3 tombstone ttl (s), 4 random
--      name of this deletion (so that it, sent again, knows its own work), 5 item id
-- Replies {'ok', created, meta}, {'absent'}, {'unknown'} (no such item), {'busy', 0, turn} or {'look', 0, turn}, see
--      APPEND
local line = redis.call('HMGET', KEYS[1], 'active', 'hidden', 'created', 'meta', 'ttl')
if not line[1] or line[2] then return {'absent'} end
if redis.call('SISMEMBER', KEYS[5], ARGV[4]) == 1 then return {'ok', tonumber(line[3]), line[4]} end
if not redis.call('LPOS', KEYS[2], ARGV[5]) then return {'unknown'} end
local refusal = held(line[1], ARGV[1], KEYS[6])
if refusal then return refusal end
redis.call('LREM', KEYS[2], 0, ARGV[5])
redis.call('HDEL', KEYS[3], ARGV[5])
if redis.call('HGET', KEYS[7], 'answer') == ARGV[5] then redis.call('HDEL', KEYS[7], 'ids', 'lp') end
redis.call('SADD', KEYS[5], ARGV[4], 'item:' .. ARGV[5])
redis.call('EXPIRE', KEYS[5], ARGV[3])
redis.call('HINCRBY', KEYS[1], 'ver', 1)
renew((line[5] or ARGV[2]) * 1000, KEYS[1], KEYS[2], KEYS[3], KEYS[4])
return {'ok', tonumber(line[3]), line[4]}
"""
)
