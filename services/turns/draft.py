"""A request made ready for a replica: its prompt, its limits, its draws. Nothing is written anywhere yet.

All that is wrong with a request comes out here, so a turn that is refused leaves no trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.protocol import GenerateRequest, Hint
from services.conversations import ids
from services.conversations.records import Item, Line
from services.turns import keep, pin, prompt, splice
from services.turns.events import ChatTurn, Message, StoredTurn
from services.turns.parts import TurnParts
from services.turns.prompt import PromptMessage
from services.turns.sampling import sampling


@dataclass(frozen=True, slots=True)
class Draft:
    """A turn ready to be generated.

    Attributes:
        request: the first attempt.
        stop: stop strings.
        tools: names of the tools whose calls the answer may make.
    """

    request: GenerateRequest
    stop: tuple[str, ...]
    tools: tuple[str, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.prompt_ids)


async def draft_chat(parts: TurnParts, turn: ChatTurn, messages: Sequence[Message]) -> Draft:
    """Make a stateless turn ready, with the sampled ids of those answers in it that are known.

    ``messages`` are the turn's as the model sees them (``tools.shown_messages``): what it is told of tools decides the
    ids, so it is part of every key.

    Raises:
        InvalidRequestError: a field or a text is wrong.
        ContextLengthExceededError: prompt and answer do not fit.
    """
    keys = splice.chain_keys(turn.tenant, parts.model.fingerprint, messages)
    known = await splice.known_answers(parts.index, parts.metrics, messages, keys)
    known_ids = {place: answer.ids for place, answer in known.items()}
    request = await _request(
        parts,
        turn,
        prompt.stateless_messages(messages, known_ids),
        pin_key=pin.stateless_key(turn.tenant, messages, turn.cache_key),
        hint=next((answer.hint for answer in reversed(known.values())), None),
    )
    return Draft(request, turn.options.stop, tuple(tool.name for tool in turn.tools))


async def draft_stored(
    parts: TurnParts, turn: StoredTurn, conversation: str, line: Line | None, new: Sequence[Item]
) -> Draft:
    """Make a stored turn ready. ``line`` is what the store holds of the conversation; None: it is new.

    Raises:
        InvalidRequestError: a field or a text is wrong.
        ContextLengthExceededError: conversation and answer do not fit.
    """
    request = await _request(
        parts,
        turn,
        prompt.stored_messages(turn.instructions, line.items if line else (), new),
        pin_key=pin.conversation_key(turn.tenant, ids.conversation_root(conversation)),
        hint=line.hint if line else None,
    )
    return Draft(request, turn.options.stop)


async def _request(
    parts: TurnParts,
    turn: ChatTurn | StoredTurn,
    messages: Sequence[PromptMessage],
    *,
    pin_key: str,
    hint: Hint | None,
) -> GenerateRequest:
    prompt_ids = await _encode(parts, messages)
    limit = prompt.output_limit(len(prompt_ids), turn.options.max_tokens, parts.model.context_length)
    return GenerateRequest(
        attempt=0,  # drawn for each attempt
        request_id=turn.request_id,
        tenant=turn.tenant,
        prompt_ids=prompt_ids,
        sampling=sampling(turn.options, limit, parts.tokenizer),
        pin_key=pin_key,
        hint=hint,
        priority=turn.share.priority,
        weight=turn.share.weight,
        keep_s=keep.keep_s(parts.settings.keep, turn),
    )


async def _encode(parts: TurnParts, messages: Sequence[PromptMessage]) -> list[int]:
    if sum(len(message.text) for message in messages) <= parts.settings.inline_chars:
        return prompt.prompt_ids(parts.tokenizer, messages)
    return await asyncio.to_thread(prompt.prompt_ids, parts.tokenizer, messages)
