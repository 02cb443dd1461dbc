"""Sampled ids for the answers that a stateless caller sends back, and where the latest one left its KV.

An answer's key is a hash of everything up to and including it, tenant and model too. So all keys of a history are known
before anything is looked up, one ``get`` fetches them, and an edited message changes the keys of all that follow it.

A call is compared by its name and the values of its arguments: clients parse the JSON they are given and write it again
with other blanks, escapes or order. Its id is made for the client alone and no part of the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cluster.tokenizer.tool_calls import ToolCall, arguments_json
from services.conversations.store import IdIndex, Sampled
from services.turns.events import Message, Role
from services.turns.hashing import add_text
from services.turns.metrics import TurnMetrics

_DIGEST_SIZE = 32
_DOMAIN = b"turns.splice.2"  # changes when the chain's layout does


def chain_keys(tenant: str, fingerprint: str, messages: Sequence[Message]) -> list[bytes]:
    """One key per message: BLAKE2b-256 over tenant, model and the (role, text, call) of all messages so far."""
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE, person=_DOMAIN)
    add_text(digest, tenant)
    add_text(digest, fingerprint)
    keys = []
    for message in messages:
        _add_message(digest, message)
        keys.append(digest.digest())  # a digest may be read and continued
    return keys


async def known_answers(
    index: IdIndex, metrics: TurnMetrics, messages: Sequence[Message], keys: Sequence[bytes]
) -> dict[int, Sampled]:
    """Those assistant messages that the index knows, as they were sampled, by their place in the history, in order."""
    places = [i for i, message in enumerate(messages) if message.role is Role.ASSISTANT]
    if not places:
        return {}
    found = await index.get([keys[i] for i in places])
    known = {i: answer for i, answer in zip(places, found, strict=True) if answer and answer.ids}
    metrics.index_hits += len(known)
    metrics.index_misses += len(places) - len(known)
    return known


def answer_key(
    tenant: str, fingerprint: str, messages: Sequence[Message], text: str, call: ToolCall | None = None
) -> bytes:
    """The key of an answer to ``messages``: the one it will have when the caller sends it back."""
    return chain_keys(tenant, fingerprint, (*messages, Message(Role.ASSISTANT, text, call)))[-1]


def _add_message(digest: hashlib.blake2b, message: Message) -> None:
    call = message.call
    parts = (call.name, arguments_json(call.arguments, is_canonical=True)) if call else ()
    for text in (message.role, message.text, str(len(parts)), *parts):
        add_text(digest, text)
