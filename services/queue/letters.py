"""Programs for the operator: how far behind a class is, and its dead letters. They see one page of them at a time."""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import Script
from services.queue.lua import PRELUDE

LAG: Final = Script(
    PRELUDE
    + """
-- How far behind the class is, without looking at any job. Writes nothing.
-- Replies {jobs in all, delayed, in work, dead, tenants that wait, ms the first has waited}
local oldest = redis.call('ZRANGE', OLDEST, 0, 0, 'WITHSCORES')[2]
return {
  redis.call('HLEN', JOBS), redis.call('ZCARD', LATER), tonumber(redis.call('HGET', STATE, 'working') or 0),
  redis.call('ZCARD', DEAD), redis.call('ZCARD', RING), oldest and math.max(now_ms() - oldest, 0) or 0
}
"""
)

LARGEST: Final = Script(
    PRELUDE
    + """
-- ARGV 1 most tenants
-- Replies tenant, jobs, ... with the most first. Writes nothing.
return redis.call('ZRANGE', SIZES, 0, ARGV[1] - 1, 'REV', 'WITHSCORES')
"""
)

DEAD_PAGE: Final = Script(
    PRELUDE
    + """
-- Dead letters, oldest first. Writes nothing.
-- ARGV 1 ref to start behind (or ''), 2 when that one died (ms), for it may be gone, 3 most letters
-- Replies ref, died at (ms), grave, ...
local first = 0
if ARGV[1] ~= '' then
  local rank = redis.call('ZRANK', DEAD, ARGV[1])
  first = rank and rank + 1 or redis.call('ZCOUNT', DEAD, '-inf', '(' .. ARGV[2])
end
local letters = redis.call('ZRANGE', DEAD, first, first + ARGV[3] - 1, 'WITHSCORES')
local reply = {}
for i = 1, #letters, 2 do
  reply[#reply + 1] = letters[i]
  reply[#reply + 1] = letters[i + 1]
  reply[#reply + 1] = redis.call('HGET', GRAVES, letters[i])
end
return reply
"""
)

REPLAY: Final = Script(
    PRELUDE
    + """
-- Queue dead letters as if they were new; one whose turn is queued again already is only forgotten.
-- ARGV refs
-- Replies how many there were
local found, now = 0, now_ms()
for _, ref in ipairs(ARGV) do
  local grave = redis.call('HGET', GRAVES, ref)
  redis.call('HDEL', GRAVES, ref)
  if redis.call('ZREM', DEAD, ref) == 1 then
    found = found + 1
    if not read_job(ref) then
      redis.call('ZINCRBY', SIZES, 1, (parts_of(ref)))
      put(ref, {share = string.match(grave, '^%S+'), tries = 0, since = now})
    end
  end
end
return found
"""
)
