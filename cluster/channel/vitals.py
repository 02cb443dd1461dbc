"""Who was heard when: finds peers that have fallen silent, and does not blame them for our own pauses."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Peer = TypeVar("Peer", bound=Hashable)

LATE_S = 1.0  # an event loop this much behind has not heard what did arrive


class Vitals(Generic[Peer]):
    """Last signs of life. ``check`` every ``tick_s`` seconds.

    A check that comes late by a second or more restarts every timer: the peers may have spoken while this process was
    not listening. Without that, a busy owner would drop its replicas, get busier with moving their turns, and so on.
    """

    def __init__(self, *, silence_s: float, tick_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.tick_s = tick_s
        self._silence_s = silence_s
        self._clock = clock
        self._heard: dict[Peer, float] = {}
        self._checked = clock()

    def hear(self, peer: Peer) -> None:
        """The peer said something. Budget: 0.2 µs, once per frame."""
        self._heard[peer] = self._clock()

    def forget(self, peer: Peer) -> None:
        """The peer is gone."""
        self._heard.pop(peer, None)

    def check(self) -> list[Peer]:
        """Peers that have said nothing for ``silence_s`` although we listened."""
        now = self._clock()
        is_late = now - self._checked >= self.tick_s + LATE_S
        self._checked = now
        if is_late:
            self._heard = dict.fromkeys(self._heard, now)
        return [peer for peer, heard in self._heard.items() if now - heard > self._silence_s]

    def silent_s(self, peer: Peer) -> float | None:
        """Seconds since the peer was last heard; None for one that is not there."""
        heard = self._heard.get(peer)
        return None if heard is None else self._clock() - heard
