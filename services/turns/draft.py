"""A request made ready for a replica: its prompt, its limits, its draws. Nothing is written anywhere yet.

All that is wrong with a request comes out here, so a turn that is refused leaves no trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.protocol import GenerateRequest, Hint
from services.conversations import ids
from services.conversations.records import Item
from services.turns import keep, pin, prompt, splice, window
from services.turns.events import ChatTurn, Message, StoredTurn, Truncation
from services.turns.parts import TurnParts
from services.turns.prompt import Piece, PromptMessage
from services.turns.recall import Past
from services.turns.sampling import sampling


@dataclass(frozen=True, slots=True)
class Draft:
    """A turn ready to be generated.

    Attributes:
        request: the first attempt.
        stop: stop strings.
        tools: names of the tools whose calls the answer may make.
        window: id of the first item in a stored turn's prompt behind the leading system messages; "": all are.
    """

    request: GenerateRequest
    stop: tuple[str, ...]
    tools: tuple[str, ...] = ()
    window: str = ""

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
    pieces = await _encode(parts, prompt.stateless_messages(messages, known_ids))
    num_lead = window.lead([piece.role for piece in pieces])
    always, rest = pieces[:num_lead], pieces[num_lead:]
    request = _request(
        parts,
        turn,
        always + rest[_first(parts, turn, always, rest, num_new=min(1, len(rest))) :],
        pin_key=pin.stateless_key(turn.tenant, messages, turn.cache_key),
        hint=next((answer.hint for answer in reversed(known.values())), None),
    )
    return Draft(request, turn.options.stop, tuple(tool.name for tool in turn.tools))


async def draft_stored(parts: TurnParts, turn: StoredTurn, conversation: str, past: Past, new: Sequence[Item]) -> Draft:
    """Make a stored turn ready. ``past`` is what its conversation said before.

    Raises:
        InvalidRequestError: a field or a text is wrong.
        ContextLengthExceededError: conversation and answer do not fit.
    """
    told = [*past.lead, *past.pieces, *await _encode(parts, prompt.stored_messages(None, (), new))]
    num_lead = window.lead([piece.role for piece in told]) if past.is_whole else len(past.lead)
    always = [*await _encode(parts, prompt.stored_messages(turn.instructions, (), ())), *told[:num_lead]]
    rest = told[num_lead:]
    first = _first(parts, turn, always, rest, num_new=min(len(new), len(rest)))
    request = _request(
        parts,
        turn,
        always + rest[first:],
        pin_key=pin.conversation_key(turn.tenant, ids.conversation_root(conversation)),
        hint=past.line.hint if past.line else None,
    )
    return Draft(request, turn.options.stop, window="" if past.is_whole and not first else rest[first].item)


def _first(
    parts: TurnParts, turn: ChatTurn | StoredTurn, always: Sequence[Piece], rest: Sequence[Piece], *, num_new: int
) -> int:
    """Index of the window's first message in ``rest``."""
    if turn.truncation is Truncation.DISABLED:
        return 0
    num_always = len(prompt.joined(parts.tokenizer, always))
    return window.first(
        [piece.role for piece in rest],
        [len(piece.ids) for piece in rest],
        num_new=num_new,
        space=window.space(parts.model.context_length, turn.options.max_tokens, num_always),
    )


def _request(
    parts: TurnParts, turn: ChatTurn | StoredTurn, pieces: Sequence[Piece], *, pin_key: str, hint: Hint | None
) -> GenerateRequest:
    prompt_ids = prompt.joined(parts.tokenizer, pieces)
    limit = prompt.output_limit(
        len(prompt_ids),
        turn.options.max_tokens,
        parts.model.context_length,
        can_truncate=isinstance(turn, StoredTurn) and turn.truncation is Truncation.DISABLED,
    )
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


async def _encode(parts: TurnParts, messages: Sequence[PromptMessage]) -> list[Piece]:
    if sum(len(message.text) for message in messages) <= parts.settings.inline_chars:
        return prompt.pieces(parts.tokenizer, messages)
    return await asyncio.to_thread(prompt.pieces, parts.tokenizer, messages)
