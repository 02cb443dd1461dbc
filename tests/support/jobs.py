"""Short makers of queue calls, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from services.conversations import ids
from services.queue.base import Done, Entry, Queue


def a_turn() -> str:
    """The id of a turn that no record belongs to."""
    return ids.new_response(ids.new_conversation())


async def fill(queue: Queue, jobs: Mapping[str, int], **options: Any) -> dict[str, list[str]]:
    """Queue so many new turns of each tenant; their ids in order."""
    turns = {tenant: [a_turn() for _ in range(count)] for tenant, count in jobs.items()}
    for tenant, names in turns.items():
        for turn in names:
            await queue.publish(tenant, turn, **options)
    return turns


async def drain(queue: Queue, consumer: str = "c", *, settle: Callable[[Entry], Any] = lambda _: Done()) -> list[Entry]:
    """Take and settle, one by one, until nothing waits."""
    taken = []
    while entry := await queue.take(consumer):
        taken.append(entry)
        await queue.settle(entry, settle(entry))
    return taken


def tenants_of(entries: Iterable[Entry]) -> list[str]:
    """Whose jobs these are, in order."""
    return [entry.tenant for entry in entries]


def turns_of(entries: Iterable[Entry]) -> list[str]:
    """Which jobs these are, in order."""
    return [entry.turn for entry in entries]
