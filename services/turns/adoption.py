"""A claimed turn made ready to be gone on with, as its first owner would have: the same prompt, the same draws.

What the record names must still be so: the model, the release's events, the prompt to its last id. Where it is not, the
turn fails with a word that says why, for a splice of two answers would be worse than none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from cluster.errors import DeadlineExceededError, ModelReplacedError, PromptMismatchError
from cluster.protocol import GenerateRequest, SamplingParams
from services.conversations import ids
from services.conversations.records import TurnRecord
from services.conversations.store import Begin
from services.turns import pin
from services.turns.accepted import Accepted, Held
from services.turns.draft import Draft
from services.turns.orphans import Claimed
from services.turns.parts import TurnParts
from services.turns.projection import VERSION
from services.turns.prompt import PromptMessage, digest, prompt_ids
from services.turns.rebuild import prompt_messages

_decode_sampling = msgspec.msgpack.Decoder(SamplingParams).decode


async def make_ready(parts: TurnParts, claimed: Claimed) -> Accepted:
    """The claimed turn, ready to be generated from where its journal ends.

    Raises:
        ModelReplacedError: it was begun on another model, or by a release with other events.
        PromptMismatchError: its conversation does not give the prompt that it was begun with.
        DeadlineExceededError: it has waited too long.
        TurnLostError, NotFoundError: what it stands on is gone.
        StoreUnavailableError: the store does not answer.
    """
    record = claimed.record
    _check(parts, record)
    prompt = await _prompt(parts, claimed.tenant, record)
    request = GenerateRequest(
        attempt=0,  # drawn for each attempt
        request_id=record.request.request_id,
        tenant=claimed.tenant,
        prompt_ids=prompt,
        output_ids=list(claimed.journal.ids),
        sampling=sampling_of(record),
        pin_key=pin.conversation_key(claimed.tenant, ids.conversation_root(record.conversation)),
        priority=record.request.priority,
        weight=record.request.weight,
        keep_s=parts.settings.keep.conversation_s,
    )
    return Accepted(
        begin=_begin(parts, claimed),
        sent_at=claimed.sent_at,
        created_at=record.created_at,
        draft=Draft(request, tuple(record.request.stop), window=record.request.window),
        can_wait=True,
        held=Held(claimed.journal.ids, claimed.journal.logprobs, record.moves),
    )


def _begin(parts: TurnParts, claimed: Claimed) -> Begin:
    """What would begin the record on its line, as it is now."""
    record = claimed.record
    return Begin(
        tenant=claimed.tenant,
        turn=record.id,
        conversation=record.conversation,
        owner=claimed.owner,
        base_version=record.base_version,
        lease_s=parts.settings.journal.lease_s,
        deadline_s=parts.settings.deadline_s,
        request=record.request,
        line=record.line,
    )


def sampling_of(record: TurnRecord) -> SamplingParams:
    """How the turn's ids are drawn."""
    return _decode_sampling(record.request.sampling)


def job_cost(prompt_tokens: int, sampling: SamplingParams) -> float:
    """What a turn takes of its tenant's share of the queue: the tokens of its prompt and of its longest answer."""
    return float(prompt_tokens + sampling.max_new_tokens)


def _check(parts: TurnParts, record: TurnRecord) -> None:
    if record.request.fingerprint != parts.model.fingerprint:
        raise ModelReplacedError("The model was replaced after this turn began; send it again.")
    if record.request.projection != VERSION:
        raise ModelReplacedError("The cluster was upgraded after this turn began; send it again.")
    if time.time() * 1000 > record.deadline_ms:
        raise DeadlineExceededError("The turn waited longer than it may.")


async def _prompt(parts: TurnParts, tenant: str, record: TurnRecord) -> list[int]:
    messages = await prompt_messages(parts.store, tenant, record)
    prompt = await _encoded(parts, messages)
    if digest(prompt) != record.request.prompt_digest:
        raise PromptMismatchError("The conversation does not give the prompt that this turn began with.")
    return prompt


async def _encoded(parts: TurnParts, messages: Sequence[PromptMessage]) -> list[int]:
    """Short prompts here, for a thread costs a job more than it takes to encode them."""
    if sum(len(message.text) for message in messages) <= parts.settings.inline_chars:
        return prompt_ids(parts.tokenizer, messages)
    return await asyncio.to_thread(prompt_ids, parts.tokenizer, messages)
