"""The key map of the queue: every Redis key this package writes.

All keys of one class share the hash tag ``{<class>}``, hence one slot. None has a TTL but the dead letters, as a job
waits for as long as it has to; instead each is deleted with the last thing in it, so tenants leave nothing behind.
"""

from __future__ import annotations

import re
from typing import Final

from services.conversations.keys import SCHEMA

BACKGROUND: Final = "background"  # turns that a caller will come back for
BATCH: Final = "batch"  # lines of batch files
CLASSES: Final = (BACKGROUND, BATCH)

GROUP: Final = "g"  # the one consumer group of every stream
STREAM: Final = "in:"  # + tenant, stream: {turn}; waiting and in work (pending), oldest first
RING: Final = "ring"  # zset: tenants that wait → virtual time of their next job
REST: Final = "rest"  # zset: tenants that do not wait → virtual time they have used up, while it lies ahead
OLDEST: Final = "oldest"  # zset: tenants that wait → since when their first job does (ms)
JOBS: Final = "jobs"  # hash: ref → 'entry id or -, share, retries, published at (ms)'; all but dead ones
SIZES: Final = "sizes"  # zset: tenants → jobs, all but dead ones
WORK: Final = "work"  # zset: tenants with jobs in work → when it was last seen that all their consumers live (ms)
LATER: Final = "later"  # zset: refs of delayed retries → when they are due (ms)
STATE: Final = "state"  # hash: vtime (of the ring), working (jobs in work)
DEAD: Final = "dead"  # zset: refs of dead letters → when they died (ms). DEAD_TTL_S
GRAVES: Final = "graves"  # hash: ref → 'share attempts reason' of a dead letter. DEAD_TTL_S

DEAD_TTL_S: Final = 7 * 86_400
MAX_DEAD: Final = 100_000  # per class; the oldest go first, their turns' records stay

DUE_SHARDS: Final = 16  # each in a slot of its own

_CLASS: Final = re.compile(r"[a-z]{1,16}")


def class_prefix(name: str) -> str:
    """What all keys of a class begin with. Raises ValueError for a name that is not 1 to 16 of a-z."""
    if _CLASS.fullmatch(name) is None:
        raise ValueError(f"queue class {name[:40]!r} is not 1 to 16 of a-z")
    return f"{SCHEMA}:q:{{{name}}}:"


def due_key(shard: int) -> str:
    """Zset: refs → when to look at them (ms). No TTL; empty once nothing is open."""
    return f"{SCHEMA}:due:{{{shard}}}"
