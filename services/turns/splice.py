"""Sampled ids for the answers that a stateless caller sends back.

An answer's key is a hash of everything up to and including it, tenant and model too. So all keys of a history are known
before anything is looked up, one ``get`` fetches them, and an edited message changes the keys of all that follow it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from services.conversations.store import IdIndex
from services.turns.events import Message, Role
from services.turns.hashing import add_text
from services.turns.metrics import TurnMetrics

_DIGEST_SIZE = 32
_DOMAIN = b"turns.splice.1"  # changes when the chain's layout does


def chain_keys(tenant: str, fingerprint: str, messages: Sequence[Message]) -> list[bytes]:
    """One key per message: BLAKE2b-256 over tenant, model and the (role, text) of all messages up to this one."""
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE, person=_DOMAIN)
    add_text(digest, tenant)
    add_text(digest, fingerprint)
    keys = []
    for message in messages:
        add_text(digest, message.role)
        add_text(digest, message.text)
        keys.append(digest.digest())  # a digest may be read and continued
    return keys


async def known_ids(
    index: IdIndex, metrics: TurnMetrics, messages: Sequence[Message], keys: Sequence[bytes]
) -> dict[int, list[int]]:
    """The sampled ids of those assistant messages that the index knows, by the message's place in the history."""
    places = [i for i, message in enumerate(messages) if message.role is Role.ASSISTANT]
    if not places:
        return {}
    found = await index.get([keys[i] for i in places])
    known = {i: ids for i, ids in zip(places, found, strict=True) if ids}
    metrics.index_hits += len(known)
    metrics.index_misses += len(places) - len(known)
    return known


def answer_key(tenant: str, fingerprint: str, messages: Sequence[Message], text: str) -> bytes:
    """The key of an answer to ``messages``: the one it will have when the caller sends its text back."""
    return chain_keys(tenant, fingerprint, (*messages, Message(Role.ASSISTANT, text)))[-1]
