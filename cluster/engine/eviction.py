"""Chooses the tenant that loses its next cached page.

Tenants with cached pages are entitled to what they hold together (active and cached pages) by weight. Only tenants at
or above their entitlement lose pages:

1. If one of them has a dead page (see ``tenant_pages``), then of those with one the tenant most over its share, which
   is the one with the most pages held per weight.
2. Else the tenant most over its share loses a live page.

So a wish to be kept protects from the dead pages of all who hold more than their share, but never lets a tenant grow
at the cost of one that holds less. Active pages count although they cannot be evicted: a tenant whose running
sequences fill the pool does not push out the conversations of others as long as it has cached pages itself.

Every change is only noted; the order is brought up to date when a page must go. O(log tenants) per eviction, and a
tenant without cached pages costs nothing: what is kept here are names and numbers, never the tenant itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from cluster.engine.tenant_pages import Tenant

_FEW = 64
_ALONE = 1e9  # a lead that no tenant loses
_ROUNDING = 1e-9


class Eviction:
    """Ranks ``tenants``, whose accounts the block manager keeps.

    Attributes:
        now: the latest time observed, in seconds on the engine's clock.
    """

    def __init__(self, tenants: Mapping[str, Tenant]) -> None:
        self.now = 0.0
        self._tenants = tenants
        self._changed: set[str] = set()  # salts whose account changed since the ranks were brought up to date
        self._counted: dict[str, tuple[int, float]] = {}  # salts with cached pages: pages held and weight, as ranked
        self._held, self._weight = 0, 0.0  # sums over _counted
        self._all, self._dead = _Ranking(), _Ranking()  # tenants with cached pages; those with a dead one
        self._ends: list[tuple[int, str]] = []  # heap of seconds in which wishes of a salt end

    def observe(self, now: float) -> None:
        """Take the time; it never goes back."""
        self.now = max(self.now, now)
        while self._ends and self._ends[0][0] <= self.now:
            self.note(heappop(self._ends)[1])

    def note(self, salt: str) -> None:
        """The account or weight of a tenant has changed."""
        self._changed.add(salt)
        if len(self._changed) > 2 * len(self._counted) + _FEW:
            self._settle()

    def note_end(self, second: int, salt: str) -> None:
        """Pages of a tenant will be dead from ``second`` on."""
        heappush(self._ends, (second, salt))

    def victim(self) -> tuple[Tenant, int]:
        """The tenant that loses a page by the rule in the module's docstring; one must have a cached page.

        Also how many pages it may lose, at least one, before the rule must be asked again; it must be asked at once
        when its dead pages end.
        """
        self._settle()
        first, dead = self._all.first(), self._dead.first()
        assert first is not None, "nobody has a cached page"
        if dead is None or dead == first:
            tenant = self._tenants[first]
            return tenant, max(1, math.ceil(self._all.lead * tenant.weight))
        is_entitled = self._all.levels[dead] * self._weight < self._held
        return self._tenants[first if is_entitled else dead], 1

    def _settle(self) -> None:
        for salt in self._changed:
            self._rank(salt, self._tenants.get(salt))
        self._changed.clear()

    def _rank(self, salt: str, tenant: Tenant | None) -> None:
        held, weight = self._counted.pop(salt, (0, 0.0))
        self._held -= held
        self._weight -= weight
        if tenant is None or not tenant.cached.num_pages:
            self._all.drop(salt)
            self._dead.drop(salt)
            return
        self._counted[salt] = tenant.held, tenant.weight
        self._held += tenant.held
        self._weight += tenant.weight
        level = tenant.held / tenant.weight
        self._all.put(salt, level)
        if tenant.cached.has_dead(self.now):
            self._dead.put(salt, level)
        else:
            self._dead.drop(salt)

    def debug_check(self) -> None:
        """Assert that the ranks, brought up to date, are those of the accounts, and that the rule is kept."""
        self._settle()
        members = {salt: tenant for salt, tenant in self._tenants.items() if tenant.cached.num_pages}
        assert self._counted == {salt: (tenant.held, tenant.weight) for salt, tenant in members.items()}
        assert self._held == sum(tenant.held for tenant in members.values()), "pages held are miscounted"
        assert math.isclose(self._weight, sum(tenant.weight for tenant in members.values()), abs_tol=1e-6)
        levels = {salt: tenant.held / tenant.weight for salt, tenant in members.items()}
        assert self._all.levels == levels, "a tenant is ranked by an old account"
        dead = {salt: level for salt, level in levels.items() if members[salt].cached.has_dead(self.now)}
        assert self._dead.levels == dead, "dead and live pages are mistaken"
        if levels:
            self._check_victim(levels, dead)

    def _check_victim(self, levels: dict[str, float], dead: dict[str, float]) -> None:
        tenant, most = self.victim()
        share = self._held / self._weight * (1 - _ROUNDING)
        over = {salt: level for salt, level in levels.items() if level >= share}
        candidates = {salt: level for salt, level in over.items() if salt in dead} or over
        assert candidates.get(tenant.salt) == max(candidates.values()), "the wrong tenant loses a page"
        left = levels[tenant.salt] - (most - 1) / tenant.weight
        second = max((level for salt, level in levels.items() if salt != tenant.salt), default=-math.inf)
        assert most == 1 or left >= second * (1 - _ROUNDING), "a tenant loses too many pages at once"


class _Ranking:
    """Salts by level, the highest first. A heap whose outdated entries are skipped.

    Attributes:
        levels: the level of each salt that is in.
    """

    def __init__(self) -> None:
        self.levels: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def put(self, salt: str, level: float) -> None:
        """Set the level of ``salt``."""
        if self.levels.get(salt) == level:
            return
        self.levels[salt] = level
        heappush(self._heap, (-level, salt))
        if len(self._heap) > 2 * len(self.levels) + _FEW:
            self._heap = [(-level, salt) for salt, level in self.levels.items()]
            heapify(self._heap)

    def drop(self, salt: str) -> None:
        """Take ``salt`` out, if it is in."""
        self.levels.pop(salt, None)

    @property
    def lead(self) -> float:
        """By how much, at least, the first is before the second; meaningful after ``first``."""
        runners_up = self._heap[1:3]
        return min(runners_up)[0] - self._heap[0][0] if runners_up else _ALONE

    def first(self) -> str | None:
        """The salt with the highest level."""
        while self._heap:
            negative, salt = self._heap[0]
            if self.levels.get(salt) == -negative:
                return salt
            heappop(self._heap)
        return None
