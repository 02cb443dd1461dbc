"""The one program that opens an ended turn again: an operator's, for a turn in the background that failed."""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import ERASED, NOW_MS, Script

REVIVE: Final = Script(
    NOW_MS
    + ERASED
    + """
-- Let a failed turn that nobody waits for wait anew. Its line must be as the turn found it, or another prompt would be
-- answered than the one it began with. Input, seed and age stay; its journal begins anew.
-- KEYS 1 turn, 2 line, 3 journal, 4 gone, 5 ix, 6 items, 7 item
-- ARGV 1 turn id, 2 owner (by whom the same call is known when it is sent again), 3 deadline (ms from now), 4 record's
--      spare time behind it (ms), 5 ix member of the turn, 6 '1' for a turn of the queue, which never changes
-- Replies {ok}, {exists} (it has not ended), {terminal} (it ended in order, or was no turn of the queue),
--      {busy, 0, turn}, {version, ver}, {absent}, {gone}
if erased(KEYS[4], ARGV[5]) then return {'gone'} end
local turn = redis.call('HMGET', KEYS[1], 'state', 'owner', 'base')
if not turn[1] then return {'absent'} end
if turn[1] == 'queued' and turn[2] == ARGV[2] then return {'ok'} end
if turn[1] == 'queued' or turn[1] == 'running' then return {'exists'} end
if turn[1] ~= 'failed' or ARGV[6] ~= '1' then return {'terminal'} end
local line = redis.call('HMGET', KEYS[2], 'ver', 'active')
if not line[1] then return {'absent'} end
if line[2] ~= '' then return {'busy', 0, line[2]} end
if line[1] ~= turn[3] then return {'version', tonumber(line[1])} end

local now, life = now_ms(), ARGV[3] + ARGV[4]
redis.call('HDEL', KEYS[1], 'ended', 'end', 'ver', 'last', 'answer', 'ids', 'lp', 'cancel')
redis.call('HSET', KEYS[1], 'state', 'queued', 'owner', ARGV[2], 'until', 0, 'n', 0, 'claims', 0, 'tries', 0,
  'moves', 0, 'deadline', now + ARGV[3])
redis.call('PEXPIREAT', KEYS[1], now + life)
redis.call('UNLINK', KEYS[3])
redis.call('HSET', KEYS[2], 'active', ARGV[1])
-- Whoever takes the turn over must still find its line; what lives longer anyway, as long as it was given, goes on so.
for _, key in ipairs({KEYS[2], KEYS[5], KEYS[6], KEYS[7]}) do redis.call('PEXPIRE', key, life, 'GT') end
return {'ok'}
"""
)
