"""Programs on one turn by its owner: begin, claim, release, note and commit.

A lease is held by being ``owner`` in the record, compared for equality; ``fence`` only counts owners. A lease that ran
out still belongs to its owner until somebody claims it: a late note then renews it. Only ``until`` 0 says that nobody
owns the turn: it waits, was given up (``left`` says when), or has ended.
"""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import ERASED, NOW_MS, RENEW, Script

BEGIN: Final = Script(
    NOW_MS
    + ERASED
    + RENEW
    + """
-- Accept a turn and make it its line's active one. A new line may begin as a branch of another.
-- KEYS 1 line, 2 turn, 3 ix, 4 gone, 5 items, 6 item, 7 record of the turn named by ARGV 2, 8 items of the line that
--      the new one leaves
-- ARGV 1 turn id, 2 turn id last seen active (or ''), 3 owner, 4 base version, 5 lease (ms), 6 deadline (ms from now),
--      7 request, 8 '1' to make the line, 9 history ttl (s), 10 record's spare time behind its deadline (ms),
--      11 empty metadata, 12 and 13 ix members of line and turn, 14 state (running or queued), 15 line's name,
--      16 input, 17 id of the last item that a branch shares (or ''), 18 the line's own history ttl (s) from now on
--      (or '')
-- Replies {ok, fence}, {exists}, {busy, 0, turn}, {expired, ms since, turn}, {version, ver}, {absent} (of a branch:
--      what it leaves is gone), {gone};
--      {look, 0, turn} when the line is active with another turn than ARGV 2: call again with that turn's key
if erased(KEYS[4], ARGV[13]) then return {'gone'} end
local now = now_ms()
local mine = redis.call('HMGET', KEYS[2], 'owner', 'state', 'fence', 'until')
if mine[1] then
  if mine[1] ~= ARGV[3] or mine[2] ~= ARGV[14] then return {'exists'} end
  if mine[2] == 'running' then
    if mine[4] == '0' then return {'exists'} end
    redis.call('HSET', KEYS[2], 'until', now + ARGV[5])
  end
  return {'ok', tonumber(mine[3])}
end

local line = redis.call('HMGET', KEYS[1], 'ver', 'active')
if not line[1] then
  if ARGV[8] ~= '1' then return {'absent'} end
  line = {'0', ''}
end
if line[2] ~= '' then
  if line[2] ~= ARGV[2] then return {'look', 0, line[2]} end
  local holder = redis.call('HMGET', KEYS[7], 'state', 'until', 'left')
  -- A record that is gone altogether (a crash, then its TTL) no longer holds the line.
  if holder[1] then
    local since = now - tonumber(holder[2] == '0' and holder[3] or holder[2])
    if holder[1] == 'queued' or since < 0 then return {'busy', 0, line[2]} end
    return {'expired', since, line[2]}
  end
end
if line[1] ~= ARGV[4] then return {'version', tonumber(line[1])} end

if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[17] ~= '' then
    local last = redis.call('LPOS', KEYS[8], ARGV[17], 'RANK', -1)
    if not last then return {'absent'} end
    for first = 0, last, 1000 do
      local names = redis.call('LRANGE', KEYS[8], first, math.min(first + 999, last))
      redis.call('RPUSH', KEYS[5], unpack(names))
    end
  end
  redis.call('HSET', KEYS[1], 'ver', 0, 'fence', 0, 'created', math.floor(now / 1000), 'meta', ARGV[11], 'hidden', 1)
end
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'active', ARGV[1])
if ARGV[18] ~= '' then redis.call('HSET', KEYS[1], 'ttl', ARGV[18]) else redis.call('HDEL', KEYS[1], 'ttl') end
redis.call('HSET', KEYS[2], 'state', ARGV[14], 'req', ARGV[7], 'input', ARGV[16], 'base', ARGV[4], 'owner', ARGV[3],
  'fence', fence, 'until', ARGV[14] == 'running' and now + ARGV[5] or 0, 'deadline', now + ARGV[6], 'n', 0,
  'created', math.floor(now / 1000), 'line', ARGV[15])
redis.call('PEXPIREAT', KEYS[2], now + ARGV[6] + ARGV[10])
redis.call('SADD', KEYS[3], ARGV[12], ARGV[13])
-- Whoever takes the turn over later must still find its line.
local ttl = ARGV[18] ~= '' and ARGV[18] or ARGV[9]
renew(math.max(ttl * 1000, ARGV[6] + ARGV[10]), KEYS[1], KEYS[5], KEYS[6], KEYS[3])
return {'ok', fence}
"""
)

CLAIM: Final = Script(
    NOW_MS
    + ERASED
    + """
-- Take a turn that waits, or whose lease has run out. The fence goes on from the line's, so later owners have larger
-- ones. A store that was away for long also takes a turn from its owner, so a try is only who came to no new id.
-- KEYS 1 turn, 2 line, 3 gone
-- ARGV 1 owner, 2 lease (ms), 3 ix member of the turn, 4 most tries
-- Replies {ok or poison, ids held}, {live, until}, {terminal}, {absent}, {gone}
if erased(KEYS[3], ARGV[3]) then return {'gone'} end
local turn = redis.call('HMGET', KEYS[1], 'owner', 'state', 'until', 'n', 'tries')
if not turn[1] then return {'absent'} end
if turn[2] ~= 'running' and turn[2] ~= 'queued' then return {'terminal'} end
local now, tries = now_ms(), tonumber(turn[5] or '0')
if turn[1] ~= ARGV[1] or turn[3] == '0' then
  if tonumber(turn[3]) > now then return {'live', tonumber(turn[3])} end
  if redis.call('EXISTS', KEYS[2]) == 0 then return {'absent'} end
  local fence = redis.call('HINCRBY', KEYS[2], 'fence', 1)
  tries = tries + 1
  redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'state', 'running', 'fence', fence, 'tries', tries)
  redis.call('HINCRBY', KEYS[1], 'claims', 1)
end
redis.call('HSET', KEYS[1], 'until', now + ARGV[2])
return {tries > tonumber(ARGV[4]) and 'poison' or 'ok', tonumber(turn[4])}
"""
)

RELEASE: Final = Script(
    NOW_MS
    + ERASED
    + """
-- Give a turn up: others may claim it at once. What it holds, it keeps; but a claim that ends so did not kill its owner
-- and is not counted.
-- KEYS 1 turn, 2 gone
-- ARGV 1 owner, 2 ix member of the turn, 3 state to leave it in (running or queued)
-- Replies {ok}, {lost}, {absent}, {gone}
if erased(KEYS[2], ARGV[2]) then return {'gone'} end
local turn = redis.call('HMGET', KEYS[1], 'owner', 'state', 'until', 'claims', 'tries')
if not turn[1] then return {'absent'} end
if turn[1] ~= ARGV[1] or (turn[2] ~= ARGV[3] and turn[3] == '0') then return {'lost'} end
if turn[3] == '0' then return {'ok'} end
redis.call('HSET', KEYS[1], 'until', 0, 'left', now_ms(), 'state', ARGV[3], 'claims', math.max((turn[4] or 0) - 1, 0),
  'tries', math.max((turn[5] or 0) - 1, 0))
return {'ok'}
"""
)

NOTE: Final = Script(
    NOW_MS
    + ERASED
    + """
-- Append ids to a journal and renew the lease. Ids already held are skipped, so sending again is always right.
-- KEYS 1 turn, 2 journal, 3 gone
-- ARGV 1 owner, 2 index of the first id, 3 ids (u32 little endian), 4 lease (ms), 5 ix member of the turn,
--      6 journal's spare time behind the deadline (ms), 7 log probabilities (equally many bytes for each id) or '',
--      8 moves
-- Replies {ok or gap, ids held, '', cancel, ms until which a reader wants to be back}, {lost}, {absent}, {gone}
if erased(KEYS[3], ARGV[5]) then return {'gone'} end
local turn = redis.call('HMGET', KEYS[1], 'owner', 'until', 'n', 'deadline', 'cancel', 'seen', 'moves', 'tries')
if not turn[1] then return {'absent'} end
if turn[1] ~= ARGV[1] or turn[2] == '0' then return {'lost'} end
local first, held, now = tonumber(ARGV[2]), tonumber(turn[3]), now_ms()
local seen = turn[6] and math.max(turn[6] - now, 0) or 0
redis.call('HSET', KEYS[1], 'until', now + ARGV[4])
if tonumber(ARGV[8]) > tonumber(turn[7] or '0') then redis.call('HSET', KEYS[1], 'moves', ARGV[8]) end
if first > held then return {'gap', held, '', turn[5] and 1 or 0, seen} end
local num = #ARGV[3] / 4
local total = first + num
if total > held then
  local skip = held - first
  local fields = {'ids', string.sub(ARGV[3], skip * 4 + 1)}
  if ARGV[7] ~= '' then
    fields[3], fields[4] = 'lp', string.sub(ARGV[7], skip * (#ARGV[7] / num) + 1)
  end
  redis.call('XADD', KEYS[2], total .. '-0', unpack(fields))
  redis.call('PEXPIREAT', KEYS[2], turn[4] + ARGV[6])
  redis.call('HSET', KEYS[1], 'n', total)
  if turn[8] and turn[8] ~= '0' then redis.call('HSET', KEYS[1], 'tries', 0) end
  held = total
end
return {'ok', held, '', turn[5] and 1 or 0, seen}
"""
)

COMMIT: Final = Script(
    NOW_MS
    + ERASED
    + RENEW
    + """
-- End a turn: append its items to the line, free the line, make the record immutable. The journal goes: what it held is
-- in the record now, which lets its input go where the line has it.
-- KEYS 1 turn, 2 line, 3 items, 4 item, 5 journal, 6 gone, 7 ix
-- ARGV 1 owner, 2 state, 3 base version, 4 total ids, 5 end (finish, usage, error, ids of its input), 6 hint or '',
--      7 history ttl (s) of a line without its own, 8 all ids or '' (the answer has them), 9 turn id, 10 ix member of
--      the turn, 11 id of the answer item or '', 12 log probabilities or '', then item id, blob, ...
-- Replies {ok, ver}, {done, ver}, {lost}, {absent}, {gone}
if erased(KEYS[6], ARGV[10]) then return {'gone'} end
local turn = redis.call('HMGET', KEYS[1], 'owner', 'until', 'ended', 'ver')
if not turn[1] then return {'absent'} end
if turn[1] ~= ARGV[1] then return {'lost'} end
if turn[3] then return {'done', tonumber(turn[4])} end
if turn[2] == '0' then return {'lost'} end
local line = redis.call('HMGET', KEYS[2], 'ver', 'active', 'ttl')
if not line[1] then return {'absent'} end
-- Cannot differ while this turn is active, unless the server lost writes (a failover): then the line is not ours.
if line[1] ~= ARGV[3] or line[2] ~= ARGV[9] then return {'lost'} end

local version = tonumber(line[1])
if #ARGV > 12 then version = version + 1 end
redis.call('HSET', KEYS[2], 'ver', version, 'active', '')
if ARGV[6] ~= '' then redis.call('HSET', KEYS[2], 'hint', ARGV[6]) end
for i = 13, #ARGV, 2 do
  redis.call('RPUSH', KEYS[3], ARGV[i])
  redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1])
end
local last = redis.call('LINDEX', KEYS[3], -1) or ''
-- A field costs its record some fifty bytes: what the end needs is packed, and what it does not need goes.
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'n', ARGV[4], 'end', ARGV[5], 'answer', ARGV[11], 'ver', version,
  'until', 0, 'ended', math.floor(now_ms() / 1000))
if last ~= ARGV[11] then redis.call('HSET', KEYS[1], 'last', last) end
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'ids', ARGV[8]) end
if ARGV[12] ~= '' then redis.call('HSET', KEYS[1], 'lp', ARGV[12]) end
if #ARGV > 12 then redis.call('HDEL', KEYS[1], 'input') end
redis.call('HDEL', KEYS[1], 'deadline', 'seen', 'left', 'tries')
redis.call('UNLINK', KEYS[5])
local life = (line[3] or ARGV[7]) * 1000
redis.call('PEXPIRE', KEYS[1], life)
renew(life, KEYS[2], KEYS[3], KEYS[4], KEYS[7])
return {'ok', version}
"""
)
