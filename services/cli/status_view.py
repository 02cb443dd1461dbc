"""How the status looks in a terminal: a table of replicas, and below it what needs a word.

Texts are never parsed as markup: reasons hold brackets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.gateway.schemas.status import (
    ClusterStatus,
    DispatcherStatus,
    GatewayStatus,
    Load,
    ReplicaStatus,
    TurnsStatus,
)

UNKNOWN = "–"
COLORS = {"RUNNING": "green", "HEALTHY": "green", "STARTING": "yellow", "DEPLOYING": "yellow"}
FACTS = ("rank", "replica", "state", "node")
NUMBERS = ("turns\nrun", "\nwait", "tokens\nwait", "\nper s", "pages\nused", "cache\nshare")


def view(status: ClusterStatus, outage: str = "") -> RenderableType:
    """Everything of one status. ``outage`` says why it is not a newer one."""
    parts: list[RenderableType] = [
        _headline(status),
        _replicas(status.replicas),
        _gateways(status),
        _dispatchers(status),
    ]
    parts += [Text(line) for line in [*_turns(status.turns), *_queue(status)]]
    parts += [Text(line, style="red") for line in [*_troubles(status), *status.notes, outage] if line]
    return Group(*parts)


def _headline(status: ClusterStatus) -> Text:
    text = Text.assemble("cluster ", _state(status.state))
    return text.append(f", {status.serving} of {_many(status.target_replicas, 'replica')} serve")


def _state(state: str) -> Text:
    return Text(state, style=COLORS.get(state, "red"))


def _replicas(replicas: Sequence[ReplicaStatus]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in FACTS:
        table.add_column(name, overflow="fold", no_wrap=name != "node")
    for name in NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    for replica in replicas:
        rank = UNKNOWN if replica.rank is None else str(replica.rank)
        load = [UNKNOWN] * len(NUMBERS) if replica.load is None else _load(replica.load)
        table.add_row(rank, replica.incarnation, _state(replica.state), replica.node or UNKNOWN, *load)
    return table


def _load(load: Load) -> list[str]:
    pages = load.pages
    used, held = pages.active + pages.cached, pages.active + pages.cached + pages.free
    speed = f"{load.tokens_per_second:.0f}"
    counts = [load.running, load.waiting, load.waiting_tokens]
    return [*map(str, counts), speed, f"{used}/{held}", _percent(load.cache_share)]


def _gateways(status: ClusterStatus) -> Text:
    turns = [None if each.active_turns is None else _many(each.active_turns, "turn") for each in status.gateways]
    return _processes(_many(status.target_gateways, "gateway"), status.gateways, turns)


def _dispatchers(status: ClusterStatus) -> Text:
    slots = [None if each.slots is None else f"{each.used_slots} of {each.slots} slots" for each in status.dispatchers]
    return _processes(_many(status.target_dispatchers, "dispatcher"), status.dispatchers, slots)


def _processes(title: str, processes: Sequence[GatewayStatus | DispatcherStatus], words: Sequence[str | None]) -> Text:
    """One line; behind each process what it does, where it tells."""
    text = Text(f"{title}: ")
    for index, (process, word) in enumerate(zip(processes, words, strict=True)):
        text.append(", " if index else "").append(f"{process.incarnation} ").append_text(_state(process.state))
        text.append(f" on {process.node or UNKNOWN}").append(f" ({word})" if word else "")
    return text


def _queue(status: ClusterStatus) -> Iterator[str]:
    queue = status.queue
    if queue is None:
        return
    since = f", the first for {queue.oldest_s:.0f} s" if queue.waiting else ""
    yield (
        f"background turns: {queue.waiting} waiting{since}, {queue.working} in work, {queue.delayed} delayed, "
        f"{queue.dead} given up"
    )


def _turns(turns: TurnsStatus) -> Iterator[str]:
    yield (
        f"turns: {turns.active} under way, cache share {_percent(turns.cache_share)} "
        f"({turns.cached_tokens} of {turns.prompt_tokens} prompt tokens)"
    )
    yield (
        f"pins: {turns.pinned} kept, {turns.spilled} spilled, {turns.moved} moved, {turns.placed} placed; "
        f"{_many(turns.failovers, 'answer')} moved on in the middle"
    )
    refused = ", ".join(f"{count} {code}" for code, count in sorted(turns.rejected.items()))
    yield f"refused for now: {refused or 'none'}"


def _troubles(status: ClusterStatus) -> Iterator[str]:
    """Why replicas do not serve; those that fail to load are told once, by rank."""
    told = {failure.rank for failure in status.cannot_load}
    for failure in status.cannot_load:
        yield f"Rank {failure.rank} cannot load on {failure.node}, tried {_times(failure.failures)}: {failure.reason}"
    for replica in status.replicas:
        if replica.reason and replica.rank not in told:
            yield f"Replica {replica.incarnation}: {replica.reason}"


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.0%}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
