"""What the queue's programs share: how a job enters and leaves its tenant's stream, and a tenant the ring.

The ring is start-time fair queueing. A tenant's virtual time is that of its next job; taking one costs
``share = cost / weight``; the smallest goes first, and the ring's own time is that of the last job taken. A tenant that
begins to wait enters at the ring's time: having been idle earns nothing. Nor does leaving forgive: what lies ahead of
the ring's time is kept (``rest``), or a tenant that queues one job at a time would never pay. Once nobody waits at all,
all are even.

A job is known by its ref and is in one place at a time: its tenant's stream (waiting, or in work when pending there) or
``later``. ``jobs`` says where, so a ref is queued once and found without a search.

The one key given is the prefix of the class. The others begin with it, so they are of its slot; which tenant's stream
is meant is known only inside, and asking first would mean a race for every job.
"""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import NOW_MS
from services.queue import keys

_NAMES: Final = ("STREAM", "RING", "REST", "OLDEST", "JOBS", "SIZES", "WORK", "LATER", "STATE", "DEAD", "GRAVES")
_LOCALS: Final = f"local GROUP = '{keys.GROUP}'\n" + "".join(
    f"local {name} = KEYS[1] .. '{getattr(keys, name)}'\n" for name in _NAMES
)

_JOBS: Final = """
local function stream_of(tenant) return STREAM .. tenant end
local function ref_of(tenant, turn) return tenant .. ':' .. turn end
local function parts_of(ref) return string.match(ref, '^([^:]+):(.+)$') end

local function read_job(ref)
  local text = redis.call('HGET', JOBS, ref)
  if not text then return nil end
  local id, share, tries, since = string.match(text, '^(%S+) (%S+) (%d+) (%d+)$')
  return {id = id, share = share, tries = tonumber(tries), since = tonumber(since)}
end

local function write_job(ref, job)
  redis.call('HSET', JOBS, ref, job.id .. ' ' .. job.share .. ' ' .. job.tries .. ' ' .. job.since)
end

local function forget(ref)
  local tenant = parts_of(ref)
  redis.call('HDEL', JOBS, ref)
  if tonumber(redis.call('ZINCRBY', SIZES, -1, tenant)) <= 0 then redis.call('ZREM', SIZES, tenant) end
  if redis.call('EXISTS', JOBS) == 0 then redis.call('DEL', STATE) end
end
"""

_RING: Final = """
local function since_of(id) return tonumber(string.match(id, '^%d+')) end

local function join(tenant, since)
  if redis.call('ZSCORE', RING, tenant) then return end
  local now = tonumber(redis.call('HGET', STATE, 'vtime') or 0)
  local used = tonumber(redis.call('ZSCORE', REST, tenant) or 0)
  redis.call('ZADD', RING, math.max(now, used), tenant)
  redis.call('ZREM', REST, tenant)
  redis.call('ZADD', OLDEST, since, tenant)
end

local function leave(tenant, used)
  redis.call('ZREM', RING, tenant)
  redis.call('ZREM', OLDEST, tenant)
  if redis.call('EXISTS', RING) == 1 then return redis.call('ZADD', REST, used, tenant) end
  redis.call('UNLINK', REST)
  redis.call('HDEL', STATE, 'vtime')
end

-- The ring's time is now ``vtime``; what others have used up by then is forgotten, a few at a time.
local function advance(vtime)
  redis.call('HSET', STATE, 'vtime', vtime)
  local even = redis.call('ZRANGEBYSCORE', REST, '-inf', vtime, 'LIMIT', 0, 16)
  if #even > 0 then redis.call('ZREM', REST, unpack(even)) end
end

-- A tenant's next waiting job is the first behind entry ``id``; its virtual time is ``at``.
local function go_on(tenant, id, at)
  local behind = redis.call('XRANGE', stream_of(tenant), '(' .. id, '+', 'COUNT', 1)
  if #behind == 0 then return leave(tenant, at) end
  redis.call('ZADD', RING, at, tenant)
  redis.call('ZADD', OLDEST, since_of(behind[1][1]), tenant)
end

local function put(ref, job)
  local tenant, turn = parts_of(ref)
  local stream = stream_of(tenant)
  if redis.call('EXISTS', stream) == 0 then
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  end
  job.id = redis.call('XADD', stream, '*', 'turn', turn)
  write_job(ref, job)
  join(tenant, since_of(job.id))
end
"""

_WORK: Final = """
-- The consumer that has the entry in work; nil when nobody has.
local function holder_of(stream, id)
  if redis.call('EXISTS', stream) == 0 then return nil end
  local pending = redis.call('XPENDING', stream, GROUP, id, id, 1)
  return pending[1] and pending[1][2]
end

-- The job, if this very delivery of it is still the consumer's; else nil.
local function held(tenant, turn, id, attempt, consumer)
  local job = read_job(ref_of(tenant, turn))
  if not job or job.id ~= id or job.tries + 1 ~= tonumber(attempt) then return nil end
  if holder_of(stream_of(tenant), id) == consumer then return job end
end

-- Consumers are known to a stream only while they have something of it in work.
local function drop_name(stream, consumer)
  if #redis.call('XPENDING', stream, GROUP, '-', '+', 1, consumer) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer)
  end
end

-- A stream goes with its last entry.
local function close_if_empty(tenant)
  local stream = stream_of(tenant)
  if redis.call('XLEN', stream) > 0 then return false end
  redis.call('UNLINK', stream)
  redis.call('ZREM', WORK, tenant)
  return true
end

-- Take an entry that is in work out of its stream.
local function finish(tenant, id, consumer)
  local stream = stream_of(tenant)
  redis.call('XACK', stream, GROUP, id)
  redis.call('XDEL', stream, id)
  redis.call('HINCRBY', STATE, 'working', -1)
  if not close_if_empty(tenant) then drop_name(stream, consumer) end
end
"""

PRELUDE: Final = NOW_MS + _LOCALS + _JOBS + _RING + _WORK
