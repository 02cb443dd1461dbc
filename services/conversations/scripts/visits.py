"""Programs on one turn by those who do not own it: cancel, look and erase."""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import NOW_MS, Script

CANCEL: Final = Script(
    NOW_MS
    + """
-- Ask to end a turn. One that waits and holds nothing ends here. Any other is ended by its owner, who hears of it with
-- his next note, or by the next one: only an owner can put what it holds on its line.
-- KEYS 1 turn, 2 line, 3 items
-- ARGV 1 turn id, 2 history ttl (s) of a line without its own, 3 end of a turn that never ran
-- Replies the state, or false without such a turn
local turn = redis.call('HMGET', KEYS[1], 'state', 'n')
if turn[1] ~= 'queued' and turn[1] ~= 'running' then return turn[1] end
if turn[1] == 'running' or turn[2] ~= '0' then
  redis.call('HSET', KEYS[1], 'cancel', 1)
  return turn[1]
end
local line = redis.call('HMGET', KEYS[2], 'ver', 'active', 'ttl')
if line[2] == ARGV[1] then redis.call('HSET', KEYS[2], 'active', '') end
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'owner', '', 'end', ARGV[3], 'answer', '',
  'ver', line[1] or 0, 'last', redis.call('LINDEX', KEYS[3], -1) or '', 'ended', math.floor(now_ms() / 1000))
redis.call('EXPIRE', KEYS[1], line[3] or ARGV[2])
return 'cancelled'
"""
)

TAIL: Final = Script(
    NOW_MS
    + """
-- A reader's look at a turn: its state and what its journal holds behind the first ids. A reader that will be back says
-- so, and the owner of a turn whose client has left hears of it. Never makes a record that is not there.
-- KEYS 1 turn, 2 journal
-- ARGV 1 ids the reader has, 2 ms until it is back (0: it does not say)
-- Replies {} without such a turn, else {state, journal's entries}
local turn = redis.call('HMGET', KEYS[1], 'state', 'seen')
if not turn[1] then return {} end
if ARGV[2] ~= '0' and (turn[1] == 'running' or turn[1] == 'queued') then
  local seen = now_ms() + ARGV[2]
  if not turn[2] or tonumber(turn[2]) < seen then redis.call('HSET', KEYS[1], 'seen', seen) end
end
return {turn[1], redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-0', '+')}
"""
)

ERASE_TURN: Final = Script("""
-- Erase one turn and leave a tombstone. Its items go too, unless a conversation of somebody's holds them; and with the
-- last turn of a root that is no conversation the root goes. ERASE then takes what has no key here.
-- KEYS 1 gone, 2 turn, 3 journal, 4 line, 5 items, 6 item, 7 ix, 8 main line, 9 its items
-- ARGV 1 tombstone ttl (s), 2 random name of this erasure, 3 ix member of the turn, 4 turn id
-- Replies 0 without such a turn, 1, or 2 when the root went too
local turn = redis.call('HMGET', KEYS[2], 'state', 'answer', 'end')
if not turn[1] then
  if redis.call('SISMEMBER', KEYS[1], ARGV[2]) == 0 then return 0 end
  return 1 + redis.call('SISMEMBER', KEYS[1], '*')
end
redis.call('UNLINK', KEYS[2], KEYS[3])
redis.call('SADD', KEYS[1], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('SREM', KEYS[7], ARGV[3])
local line = redis.call('HMGET', KEYS[4], 'active', 'hidden')
local is_free = line[1] == '' or line[1] == ARGV[4]
if line[1] == ARGV[4] then redis.call('HSET', KEYS[4], 'active', '') end
if not line[2] then return 1 end
local names = turn[3] and cmsgpack.unpack(turn[3])[5] or {}
names[#names + 1] = turn[2] or nil
for _, name in ipairs(names) do
  redis.call('LREM', KEYS[5], -1, name)
  redis.call('HDEL', KEYS[6], name)
end
if is_free then redis.call('HINCRBY', KEYS[4], 'ver', 1) end -- under a running turn the version stays
local main = redis.call('HMGET', KEYS[8], 'ver', 'hidden')
if main[1] and not main[2] then return 1 end
local cursor = '0'
repeat
  local page = redis.call('SSCAN', KEYS[7], cursor, 'MATCH', 'turn:*', 'COUNT', 1000)
  if #page[2] > 0 then return 1 end
  cursor = page[1]
until cursor == '0'
redis.call('UNLINK', KEYS[6], KEYS[8], KEYS[9])
redis.call('SADD', KEYS[1], '*')
return 2
""")
