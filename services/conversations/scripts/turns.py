"""Programs on one turn: begin, claim, note, commit.

A lease is held by being ``owner`` in the record, compared for equality; ``fence`` only counts owners. A lease that ran
out still belongs to its owner until somebody claims it: a late note then renews it.
"""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import ERASED, NOW_MS, Script

BEGIN: Final = Script(
    NOW_MS
    + ERASED
    + """
-- Accept a turn and make it its line's active one.
-- KEYS 1 line, 2 turn, 3 ix, 4 gone, 5 items, 6 item, 7 record of the turn named by ARGV 2
-- ARGV 1 turn id, 2 turn id last seen active (or ''), 3 owner, 4 base version, 5 lease (ms), 6 deadline (ms from now),
--      7 request, 8 '1' to make the line, 9 history ttl (s), 10 record's spare time behind its deadline (ms),
--      11 empty metadata, 12 and 13 ix members of line and turn
-- Replies {ok, fence}, {exists}, {busy, 0, turn}, {expired, 0, turn}, {version, ver}, {absent}, {gone};
--      {look, 0, turn} when the line is active with another turn than ARGV 2: call again with that turn's key
if erased(KEYS[4], ARGV[13]) then return {'gone'} end
local now = now_ms()
local mine = redis.call('HMGET', KEYS[2], 'owner', 'state', 'fence')
if mine[1] then
  if mine[1] ~= ARGV[3] or mine[2] ~= 'running' then return {'exists'} end
  redis.call('HSET', KEYS[2], 'until', now + ARGV[5])
  return {'ok', tonumber(mine[3])}
end

local line = redis.call('HMGET', KEYS[1], 'ver', 'active')
if not line[1] then
  if ARGV[8] ~= '1' then return {'absent'} end
  line = {'0', ''}
end
if line[2] ~= '' then
  if line[2] ~= ARGV[2] then return {'look', 0, line[2]} end
  local until_ms = redis.call('HGET', KEYS[7], 'until')
  -- A record that is gone altogether (a crash, then its TTL) no longer holds the line.
  if until_ms then
    return {tonumber(until_ms) > now and 'busy' or 'expired', 0, line[2]}
  end
end
if line[1] ~= ARGV[4] then return {'version', tonumber(line[1])} end

if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'ver', 0, 'fence', 0, 'created', math.floor(now / 1000), 'meta', ARGV[11])
end
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'active', ARGV[1])
redis.call('HSET', KEYS[2], 'state', 'running', 'req', ARGV[7], 'base', ARGV[4], 'owner', ARGV[3], 'fence', fence,
  'until', now + ARGV[5], 'deadline', now + ARGV[6], 'n', 0, 'claims', 0, 'created', math.floor(now / 1000))
redis.call('PEXPIREAT', KEYS[2], now + ARGV[6] + ARGV[10])
redis.call('SADD', KEYS[3], ARGV[12], ARGV[13])
for _, key in ipairs({KEYS[1], KEYS[3], KEYS[5], KEYS[6]}) do redis.call('EXPIRE', key, ARGV[9]) end
return {'ok', fence}
"""
)

CLAIM: Final = Script(
    NOW_MS
    + ERASED
    + """
-- Take a turn whose lease has run out. The fence goes on from the line's, so later owners have larger ones.
-- KEYS 1 turn, 2 line, 3 gone
-- ARGV 1 owner, 2 lease (ms), 3 ix member of the turn
-- Replies {ok, ids held}, {live, until}, {terminal}, {absent}, {gone}
if erased(KEYS[3], ARGV[3]) then return {'gone'} end
local turn = redis.call('HMGET', KEYS[1], 'owner', 'state', 'until', 'n')
if not turn[1] then return {'absent'} end
if turn[2] ~= 'running' then return {'terminal'} end
local now = now_ms()
if turn[1] ~= ARGV[1] then
  if tonumber(turn[3]) > now then return {'live', tonumber(turn[3])} end
  if redis.call('EXISTS', KEYS[2]) == 0 then return {'absent'} end
  local fence = redis.call('HINCRBY', KEYS[2], 'fence', 1)
  redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fence', fence)
  redis.call('HINCRBY', KEYS[1], 'claims', 1)
end
redis.call('HSET', KEYS[1], 'until', now + ARGV[2])
return {'ok', tonumber(turn[4])}
"""
)

NOTE: Final = Script(
    NOW_MS
    + ERASED
    + """
-- Append ids to a journal and renew the lease. Ids already held are skipped, so sending again is always right.
-- KEYS 1 turn, 2 journal, 3 gone
-- ARGV 1 owner, 2 index of the first id, 3 ids (u32 little endian), 4 lease (ms), 5 ix member of the turn,
--      6 journal's spare time behind the deadline (ms)
-- Replies {ok, ids held, '', cancel}, {gap, ids held}, {lost}, {absent}, {gone}
if erased(KEYS[3], ARGV[5]) then return {'gone'} end
local turn = redis.call('HMGET', KEYS[1], 'owner', 'state', 'n', 'deadline', 'cancel')
if not turn[1] then return {'absent'} end
if turn[1] ~= ARGV[1] or turn[2] ~= 'running' then return {'lost'} end
local first, held = tonumber(ARGV[2]), tonumber(turn[3])
redis.call('HSET', KEYS[1], 'until', now_ms() + ARGV[4])
if first > held then return {'gap', held} end
local total = first + #ARGV[3] / 4
if total > held then
  redis.call('XADD', KEYS[2], total .. '-0', 'ids', string.sub(ARGV[3], (held - first) * 4 + 1))
  redis.call('PEXPIREAT', KEYS[2], turn[4] + ARGV[6])
  redis.call('HSET', KEYS[1], 'n', total)
  held = total
end
return {'ok', held, '', turn[5] and 1 or 0}
"""
)

COMMIT: Final = Script(
    ERASED
    + """
-- End a turn: append its items to the line, free the line, make the record immutable.
-- KEYS 1 turn, 2 line, 3 items, 4 item, 5 journal, 6 gone, 7 ix
-- ARGV 1 owner, 2 state, 3 base version, 4 total ids, 5 finish, 6 usage, 7 error code, 8 error message,
--      9 hint or '', 10 history ttl (s), 11 journal's time behind the end (s), 12 turn id, 13 ix member of the turn,
--      14 id of the answer item or '', then item id, blob, ...
-- Replies {ok, ver}, {done, ver}, {lost}, {absent}, {gone}
if erased(KEYS[6], ARGV[13]) then return {'gone'} end
local turn = redis.call('HMGET', KEYS[1], 'owner', 'state', 'n', 'ver')
if not turn[1] then return {'absent'} end
if turn[1] ~= ARGV[1] then return {'lost'} end
if turn[2] ~= 'running' then return {'done', tonumber(turn[4])} end
local line = redis.call('HMGET', KEYS[2], 'ver', 'active')
if not line[1] then return {'absent'} end
-- Cannot differ while this turn is active, unless the server lost writes (a failover): then the line is not ours.
if line[1] ~= ARGV[3] or line[2] ~= ARGV[12] then return {'lost'} end

local version = tonumber(line[1])
if #ARGV > 14 then version = version + 1 end
redis.call('HSET', KEYS[2], 'ver', version, 'active', '')
if ARGV[9] ~= '' then redis.call('HSET', KEYS[2], 'hint', ARGV[9]) end
for i = 15, #ARGV, 2 do
  redis.call('RPUSH', KEYS[3], ARGV[i])
  redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1])
end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'n', ARGV[4], 'finish', ARGV[5], 'usage', ARGV[6],
  'error_code', ARGV[7], 'error_message', ARGV[8], 'answer', ARGV[14], 'ver', version, 'until', 0)
redis.call('XADD', KEYS[5], turn[3] .. '-1', 'end', ARGV[2])
redis.call('EXPIRE', KEYS[5], ARGV[11])
for _, key in ipairs({KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[7]}) do redis.call('EXPIRE', key, ARGV[10]) end
return {'ok', version}
"""
)
