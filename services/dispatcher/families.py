"""What a dispatcher reports: its turns, how full it is, and the queue as it sees it.

Every dispatcher reports the whole queue, a second old at most: of these figures the largest is meant, not the sum.
"""

from __future__ import annotations

from cluster.metrics.families import Family, counter, gauge
from services.dispatcher.facts import DispatcherFacts
from services.queue.base import QueueLag
from services.turn_process.families import turn_families
from services.turns.metrics import TurnMetrics


def dispatcher_families(turns: TurnMetrics, facts: DispatcherFacts) -> list[Family]:
    """All families of one dispatcher process."""
    return [
        *turn_families(turns),
        gauge("chatglm_dispatcher_slots", "Turns that dispatchers may carry out at once.", facts.slots),
        gauge("chatglm_dispatcher_slots_used", "Turns that dispatchers carry out now.", facts.used),
        gauge("chatglm_dispatcher_slots_allowed", "Slots that replicas have had room for lately.", facts.allowed),
        counter("chatglm_dispatcher_adoptions", "Turns taken over whose owner had died.", facts.adopted),
        counter("chatglm_dispatcher_jobs", "Jobs by what became of them.", facts.settled, label="verdict"),
        *(_queue(facts.lag) if facts.lag else ()),
    ]


def _queue(lag: QueueLag) -> list[Family]:
    jobs = {"waiting": lag.waiting, "working": lag.working, "delayed": lag.delayed, "dead": lag.dead}
    return [
        gauge(
            "chatglm_queue_jobs",
            "Jobs of the background queue by state; every dispatcher tells all.",
            jobs,
            label="state",
        ),
        gauge("chatglm_queue_tenants", "Tenants with waiting jobs; every dispatcher tells all.", lag.tenants),
        gauge("chatglm_queue_oldest_seconds", "How long the first waiting job has waited.", lag.oldest_s),
    ]
