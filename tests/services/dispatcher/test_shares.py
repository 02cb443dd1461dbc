"""Tenants that share dispatchers: a flood of one makes no other wait."""

from __future__ import annotations

from dataclasses import replace

from tests.support.turn_kit import until

FLOOD = 200


async def test_jobs_of_others_start_within_two_rounds(kit):
    """A round is one job of each tenant that waits; the flood was there first, and keeps its share."""
    for number in range(FLOOD):
        await kit.turns.enqueue(replace(kit.background(f"Question {number}"), tenant="large"))
    kit.backend.gate.clear()
    async with kit.dispatcher(slots=1):
        await until(lambda: kit.backend.requests)
        for tenant in ("small", "other"):
            for number in range(5):
                await kit.turns.enqueue(replace(kit.background(f"Question {number}"), tenant=tenant))
        kit.backend.gate.set()
        await until(lambda: len(kit.backend.requests) >= 20)
    started = [request.tenant for request in kit.backend.requests[1:20]]
    assert {"small", "other"} <= set(started[:6])
    for number in range(1, 6):
        place = max(
            [i for i, name in enumerate(started) if name == tenant][number - 1] for tenant in ("small", "other")
        )
        assert place < 3 * (number + 1)
    assert started.count("large") == 9
