"""The key map of conversations: every Redis key this package writes, with its time to live beside it.

All keys of one root share the hash tag ``{<tenant>.<root>}``, hence one slot: a script may touch all of them at once.
Tenant ids are checked here, again, because a brace or a dot in one would let it leave its own key space.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from services.conversations import ids

SCHEMA: Final = "c1"  # version of names and values; a release that changes them reads both
MAIN_LINE: Final = "main"  # a root's first line; each branch has a random name

HISTORY_TTL_S: Final = 30 * 86_400  # default of the setting; renewed by begin, commit and each change
TURN_SPARE_S: Final = 86_400  # a turn record outlives its deadline by this
JOURNAL_SPARE_S: Final = 3_600  # a journal outlives its turn's deadline by this; at the turn's end it goes
GONE_TTL_S: Final = 86_400  # how long late writers meet a tombstone
IDS_TTL_S: Final = 86_400  # sampled ids of stateless answers
MAX_ITEMS: Final = 10_000  # default of the setting; a conversation takes no more items than that from its caller
MAX_TRIES: Final = 4  # a turn that outlives more owners than this without a new id probably kills them
IDEMPOTENCY_TTL_S: Final = 86_400  # how long a request sent again finds its first turn

ERASURES: Final = f"{SCHEMA}:erasures"  # zset: tenant, pin key and time of an erasure → when replicas are told (ms)
ERASURE_TTL_S: Final = 86_400  # of the zset since the last one was noted or told, and of each one in it
MAX_ERASURES: Final = 10_000  # noted at once; beyond it those told last are given up

_TENANT: Final = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one root of one tenant.

    Raises:
        ValueError: the tenant id has a shape that must never have been let in.
    """

    tenant: str
    root: str

    def __post_init__(self) -> None:
        if _TENANT.fullmatch(self.tenant) is None:
            raise ValueError(f"tenant id {self.tenant[:40]!r} is not 1 to 32 of a-z, 0-9 and '-'")

    @classmethod
    def of_conversation(cls, tenant: str, conversation: str) -> Keys:
        """Keys of a ``conv_…`` id. Raises NotFoundError for a malformed id."""
        return cls(tenant, ids.conversation_root(conversation))

    @classmethod
    def of_item(cls, tenant: str, conversation: str, item: str) -> Keys:
        """Keys of a conversation that is asked for an item. Raises NotFoundError when either id is malformed."""
        ids.item_root(item)
        return cls.of_conversation(tenant, conversation)

    @classmethod
    def of_turn(cls, tenant: str, turn: str) -> tuple[Keys, str]:
        """Keys of a ``resp_…`` id, and its own part. Raises NotFoundError for a malformed id."""
        root, part = ids.response_parts(turn)
        return cls(tenant, root), part

    def line(self, name: str = MAIN_LINE) -> str:
        """Hash: ver, active, fence, created, meta, hint, hidden (no conversation of a caller's), ttl. History TTL.

        That TTL is the field ``ttl`` (s), which the latest begin has set, or the store's where there is none.
        """
        return self._named(f"line:{name}")

    def items(self, name: str = MAIN_LINE) -> str:
        """List of item ids, oldest first. A branch copies the ids; the items are shared. History TTL."""
        return self._named(f"items:{name}")

    @property
    def item(self) -> str:
        """Hash: item id → msgpack Item. Shared by all lines of the root, and lives as long as the last."""
        return self._named("item")

    @property
    def index(self) -> str:
        """Set of the root's lines and turns, for erasure. Lives as long as the last of them."""
        return self._named("ix")

    @property
    def gone(self) -> str:
        """Set of what was erased (turns, items, ``*`` for all) and of the erasures' names. GONE_TTL_S.

        Late writers may not make it anew, and an erasure that is sent again knows its own work.
        """
        return self._named("gone")

    def turn(self, part: str) -> str:
        """Hash, the record of one turn. Deadline + TURN_SPARE_S; history TTL once terminal."""
        return self._named(f"turn:{part}")

    def journal(self, part: str) -> str:
        """Stream of ids, entry id ``<n>-0`` with n ids so far. Deadline + JOURNAL_SPARE_S, or the turn's end."""
        return self._named(f"j:{part}")

    def _named(self, suffix: str) -> str:
        return f"{SCHEMA}:{{{self.tenant}.{self.root}}}:{suffix}"


def idempotency_key(tenant: str, key: str) -> str:
    """String: the digest of a request's body and the turn it began. IDEMPOTENCY_TTL_S."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{SCHEMA}:idem:{{{tenant}.{digest}}}"


def ids_key(key: bytes) -> str:
    """String: a stateless answer, ids and hint. IDS_TTL_S. The key is hashed with its tenant already, by its maker."""
    return f"{SCHEMA}:sampled:{{{key.hex()}}}"
