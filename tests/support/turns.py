"""Short makers of store calls, for tests."""

from __future__ import annotations

from typing import Any

from cluster.protocol import Logprobs, SamplingParams
from services.conversations import codec, ids
from services.conversations.keys import MAIN_LINE
from services.conversations.records import Item, TurnRequest, TurnState
from services.conversations.store import Begin, Commit, ConversationStore, Note, Part, Tail, Verdict

TENANT = "acme"
LEASE_S = 60.0
ENDED = {Verdict.OK, Verdict.DONE}  # a commit, and one whose first reply was lost


def a_request(text: str = "question", **changes: Any) -> TurnRequest:
    """A request with one user message."""
    fields: dict[str, Any] = {
        "request_id": "req_1",
        "input": [Item(id="", role="user", text=text)],
        "instructions": None,
        "sampling": codec.encode(SamplingParams(max_new_tokens=8, seed=7)),
        "stop": ["end"],
        "prompt_digest": "00" * 16,
        "prompt_tokens": 5,
        "model": "chatglm3-6b",
        "metadata": {"k": "v"},
    }
    return TurnRequest(**(fields | changes))


def a_begin(turn: str, **changes: Any) -> Begin:
    """A begin by owner ``a`` on version 0 with a live lease."""
    fields: dict[str, Any] = {
        "tenant": TENANT,
        "turn": turn,
        "conversation": ids.conversation_of(turn),
        "owner": "a",
        "base_version": 0,
        "lease_s": LEASE_S,
        "deadline_s": 600.0,
        "request": a_request(),
    }
    return Begin(**(fields | changes))


def a_note(turn: str, start: int, new: list[int], **changes: Any) -> Note:
    """A note by owner ``a``."""
    fields: dict[str, Any] = {
        "tenant": TENANT,
        "turn": turn,
        "owner": "a",
        "start": start,
        "ids": new,
        "lease_s": LEASE_S,
    }
    return Note(**(fields | changes))


def some_items(turn: str) -> list[Item]:
    """A question and its answer, named and dated."""
    conversation = ids.conversation_of(turn)
    return [
        Item(id=ids.new_item(conversation), role="user", text="question", turn=turn, created_at=1),
        Item(id=ids.new_item(conversation), role="assistant", text="答", ids=[5, 64793], turn=turn, created_at=2),
    ]


def some_logprobs(count: int, num_best: int) -> list[Logprobs]:
    """Of so many ids, each with its own values."""
    best = range(num_best)
    return [
        Logprobs(drawn=-0.1 * at, top_ids=[at + other for other in best], top=[-0.5 * other - at for other in best])
        for at in range(count)
    ]


async def journal_of(store: ConversationStore, turn: str, tenant: str = TENANT) -> list[int]:
    """The ids in a turn's journal; none once the turn has ended, or never was."""
    found = (await store.tail([Tail(tenant, turn)]))[0]
    assert not found.is_broken
    return list(found.ids)


def a_commit(turn: str, **changes: Any) -> Commit:
    """A commit by owner ``a`` on version 0."""
    fields: dict[str, Any] = {
        "tenant": TENANT,
        "turn": turn,
        "conversation": ids.conversation_of(turn),
        "owner": "a",
        "state": TurnState.COMPLETED,
        "base_version": 0,
        "items": some_items(turn),
        "ids": [5, 64793],
        "finish": "stop",
        "usage": {"prompt_tokens": 5, "output_tokens": 2},
    }
    return Commit(**(fields | changes))


async def a_turn_on(
    store: ConversationStore,
    conversation: str,
    *,
    line: str = MAIN_LINE,
    base_version: int = 0,
    items: list[Item] | None = None,
    **changes: Any,
) -> tuple[str, list[Item]]:
    """A turn from its begin to its end; its id and its items. ``changes`` are of its begin."""
    turn = ids.new_response(conversation)
    begin = a_begin(turn, line=line, base_version=base_version, **changes)
    assert (await store.begin(begin)).verdict is Verdict.OK
    items = items or some_items(turn)
    commit = a_commit(turn, line=line, base_version=base_version, items=items)
    assert (await store.commit(commit)).verdict in ENDED
    return turn, items


async def items_of(store: ConversationStore, conversation: str, line: str = MAIN_LINE) -> list[Item]:
    """All items of a line."""
    return (await store.load(TENANT, conversation, Part(line))).items
