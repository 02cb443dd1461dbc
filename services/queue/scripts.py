"""Programs on jobs: publish, take, settle, extend, reclaim, promote, drop. See ``lua`` for what they share.

All but ``take`` and ``reclaim`` can be sent twice without a trace. These two then hand out another job, and the first,
whose reply nobody got, comes back by ``reclaim`` like any job whose consumer is lost.
"""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import Script
from services.queue.lua import PRELUDE

# An entry as replied: tenant, turn, id, attempt, age (ms).
_HAND_OUT: Final = """
local function hand_out(reply, now, tenant, turn, job)
  for _, value in ipairs({tenant, turn, job.id, job.tries + 1, now - job.since}) do reply[#reply + 1] = value end
end
"""

PUBLISH: Final = Script(
    PRELUDE
    + """
-- Queue a turn, once.
-- ARGV 1 tenant, 2 turn, 3 share, 4 most jobs of a tenant
-- Replies 'ok' or 'full'
local ref = ref_of(ARGV[1], ARGV[2])
local job = read_job(ref)
if job then
  -- Trusted only while it is where it is said to be: a stream deleted by hand must not keep its turns out for ever.
  if job.id == '-' and redis.call('ZSCORE', LATER, ref) then return 'ok' end
  if job.id ~= '-' and #redis.call('XRANGE', stream_of(ARGV[1]), job.id, job.id) > 0 then return 'ok' end
  forget(ref)
end
if tonumber(redis.call('ZSCORE', SIZES, ARGV[1]) or 0) >= tonumber(ARGV[4]) then return 'full' end
redis.call('ZINCRBY', SIZES, 1, ARGV[1])
put(ref, {share = ARGV[3], tries = 0, since = now_ms()})
return 'ok'
"""
)

TAKE: Final = Script(
    PRELUDE
    + _HAND_OUT
    + """
-- The next jobs by the ring; each stays in its stream, pending for the consumer.
-- ARGV 1 consumer, 2 most jobs
-- Replies entries
local reply, now = {}, now_ms()
for _ = 1, tonumber(ARGV[2]) do
  local first = redis.call('ZRANGE', RING, 0, 0, 'WITHSCORES')
  if #first == 0 then break end
  local tenant, vtime, stream = first[1], first[2], stream_of(first[1])
  -- Nothing there: the stream was deleted by hand. The ring must not stand still for it.
  local read = redis.call('EXISTS', stream) == 1
    and redis.call('XREADGROUP', 'GROUP', GROUP, ARGV[1], 'COUNT', 1, 'STREAMS', stream, '>')
  if not read then
    leave(tenant, vtime)
  else
    local id, turn = read[1][2][1][1], read[1][2][1][2][2]
    local job = read_job(ref_of(tenant, turn))
    redis.call('HINCRBY', STATE, 'working', 1)
    redis.call('ZADD', WORK, 'NX', now, tenant)
    advance(vtime)
    go_on(tenant, id, vtime + job.share)
    hand_out(reply, now, tenant, turn, job)
  end
end
return reply
"""
)

SETTLE: Final = Script(
    PRELUDE
    + """
-- What became of a job. Another consumer's, or one that is settled already, stays as it is.
-- ARGV 1 tenant, 2 turn, 3 id, 4 attempt, 5 consumer, 6 'done', 'retry' or 'dead', 7 delay (ms) or reason, 8 ttl of
--      dead letters (s), 9 most dead letters
-- Replies 'ok' or 'lost'
local ref = ref_of(ARGV[1], ARGV[2])
local job = held(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
if not job then return 'lost' end
local now = now_ms()
finish(ARGV[1], ARGV[3], ARGV[5])
if ARGV[6] == 'retry' then
  redis.call('ZADD', LATER, now + ARGV[7], ref)
  job.id, job.tries = '-', job.tries + 1
  write_job(ref, job)
  return 'ok'
end
forget(ref)
if ARGV[6] == 'dead' then
  redis.call('ZADD', DEAD, now, ref)
  redis.call('HSET', GRAVES, ref, job.share .. ' ' .. job.tries + 1 .. ' ' .. ARGV[7])
  redis.call('EXPIRE', DEAD, ARGV[8])
  redis.call('EXPIRE', GRAVES, ARGV[8])
  local old = redis.call('ZRANGEBYSCORE', DEAD, '-inf', now - ARGV[8] * 1000, 'LIMIT', 0, 16)
  if redis.call('ZCARD', DEAD) > tonumber(ARGV[9]) then old[#old + 1] = redis.call('ZRANGE', DEAD, 0, 0)[1] end
  if #old > 0 then
    redis.call('ZREM', DEAD, unpack(old))
    redis.call('HDEL', GRAVES, unpack(old))
  end
end
return 'ok'
"""
)

EXTEND: Final = Script(
    PRELUDE
    + """
-- The consumer still works on these.
-- ARGV 1 consumer, then tenant, turn, id, attempt of each
-- Replies 1 or 0 for each: whether it is the consumer's
local reply = {}
for i = 2, #ARGV, 4 do
  local mine = held(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[1])
  if mine then redis.call('XCLAIM', stream_of(ARGV[i]), GROUP, ARGV[1], 0, ARGV[i + 2], 'JUSTID') end
  reply[#reply + 1] = mine and 1 or 0
end
return reply
"""
)

RECLAIM: Final = Script(
    PRELUDE
    + _HAND_OUT
    + """
-- Jobs whose consumers were not heard of for a while. A tenant is looked at again after a quarter of that while.
-- ARGV 1 consumer, 2 while (ms), 3 most jobs, 4 most tenants
-- Replies entries
local reply, now = {}, now_ms()
local idle, left = tonumber(ARGV[2]), tonumber(ARGV[3])
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', WORK, '-inf', now - idle, 'LIMIT', 0, ARGV[4])) do
  local stream = stream_of(tenant)
  if redis.call('EXISTS', stream) == 0 then
    redis.call('ZREM', WORK, tenant)
  else
    local stale = redis.call('XPENDING', stream, GROUP, 'IDLE', idle, '-', '+', left)
    for _, pending in ipairs(stale) do
      local id, loser = pending[1], pending[2]
      local turn = redis.call('XRANGE', stream, id, id)[1][2][2]
      local job = read_job(ref_of(tenant, turn))
      redis.call('XCLAIM', stream, GROUP, ARGV[1], 0, id, 'JUSTID')
      drop_name(stream, loser)
      job.tries = job.tries + 1
      write_job(ref_of(tenant, turn), job)
      hand_out(reply, now, tenant, turn, job)
    end
    left = left - #stale
    if left == 0 then break end
    if #redis.call('XPENDING', stream, GROUP, '-', '+', 1) == 0 then
      redis.call('ZREM', WORK, tenant)
    else
      redis.call('ZADD', WORK, now - math.floor(idle * 3 / 4), tenant)
    end
  end
end
return reply
"""
)

PROMOTE: Final = Script(
    PRELUDE
    + """
-- Delayed retries whose time has come wait again, at the end of their tenant's stream.
-- ARGV 1 most jobs
-- Replies how many
local due = redis.call('ZRANGEBYSCORE', LATER, '-inf', now_ms(), 'LIMIT', 0, ARGV[1])
for _, ref in ipairs(due) do
  redis.call('ZREM', LATER, ref)
  put(ref, read_job(ref))
end
return #due
"""
)

DROP: Final = Script(
    PRELUDE
    + """
local function last_taken(stream)
  local group = redis.call('XINFO', 'GROUPS', stream)[1]
  for i = 1, #group, 2 do
    if group[i] == 'last-delivered-id' then return group[i + 1] end
  end
end

-- Forget a job wherever it is.
-- ARGV 1 tenant, 2 turn
-- Replies how many were there: itself, its dead letter
local tenant, ref = ARGV[1], ref_of(ARGV[1], ARGV[2])
local found = redis.call('ZREM', DEAD, ref)
redis.call('HDEL', GRAVES, ref)
local job = read_job(ref)
if not job then return found end
local stream = stream_of(tenant)
if job.id == '-' then
  redis.call('ZREM', LATER, ref)
elseif holder_of(stream, job.id) then
  finish(tenant, job.id, holder_of(stream, job.id))
elseif redis.call('XDEL', stream, job.id) == 1 then
  go_on(tenant, last_taken(stream), redis.call('ZSCORE', RING, tenant))
  close_if_empty(tenant)
end
forget(ref)
return found + 1
"""
)
