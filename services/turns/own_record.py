"""What a turn's owner writes of it beside the journal: how it ends, that it is given up, that it has begun after all.

The journal's ticket must be closed first: from then on these are the only writes.
"""

from __future__ import annotations

import contextlib
from typing import Final

import structlog

from cluster.errors import ClusterError, RetryLaterError, StoreUnavailableError, TurnMovedError
from services.conversations.records import TurnState
from services.conversations.store import Commit, Reply, Verdict
from services.turns.accepted import Accepted
from services.turns.answer import answer_items
from services.turns.events import TurnResult
from services.turns.parts import TurnParts
from services.turns.patience import patiently
from services.turns.production import Production

_log = structlog.get_logger(__name__)

RECORDED: Final = {Verdict.OK, Verdict.DONE}  # what a commit is answered that counts


class OwnRecord:
    """The record of a turn that is ours.

    Args:
        parts: shared by all turns.
        accepted: the turn.
    """

    def __init__(self, parts: TurnParts, accepted: Accepted) -> None:
        self.accepted = accepted
        self._parts = parts

    async def begin_again(self) -> Reply:
        """Make the record anew, where the store has lost it; the index may have lost the turn too. OK where it is ours.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        await self._look(in_s=self._parts.settings.journal.lease_s)
        return await self._parts.store.begin(self.accepted.begin)

    async def end(
        self, production: Production, state: TurnState, result: TurnResult, *, patience_s: float = 0.0
    ) -> Reply:
        """Commit; tried again for ``patience_s``. OK, DONE, LOST, ABSENT or GONE.

        Raises:
            StoreUnavailableError: the store did not answer for so long.
        """
        commit = _commit(self.accepted, production, state, result)
        return await patiently(self._parts, lambda: self._commit(commit), patience_s)

    async def give_up(self, production: Production, error: ClusterError) -> bool:
        """Record that the turn failed, or leave it to another owner; whether it is recorded.

        Raises:
            StoreUnavailableError: the failure is not recorded, so it is none yet: the next owner may do better.
        """
        try:
            if isinstance(error, TurnMovedError):
                await self._release(is_queued=False)
            elif self.accepted.can_wait and isinstance(error, RetryLaterError):
                await self._release(is_queued=True)
            else:
                return await self._fail(production, error)
        except StoreUnavailableError as unwritten:  # the lease runs out by itself
            _log.warning("turn.unrecorded", turn=self.accepted.response_id, error=error.code)
            if not isinstance(error, TurnMovedError):
                raise unwritten from error
        return False

    async def look_no_more(self, *, patience_s: float = 0.0) -> None:
        """The turn has ended; tried again for ``patience_s``. Whoever looks after that finds out, maybe in an hour."""
        due, tenant, turn = self._parts.due, self.accepted.tenant, self.accepted.response_id
        with contextlib.suppress(StoreUnavailableError):
            await patiently(self._parts, lambda: due.remove(tenant, turn), patience_s)

    async def _fail(self, production: Production, error: ClusterError) -> bool:
        result = production.failed(error, None).result
        assert result is not None, "the last event has a result"
        is_recorded = (await self.end(production, TurnState.FAILED, result)).verdict in RECORDED
        if is_recorded:
            await self.look_no_more()
        return is_recorded

    async def _release(self, *, is_queued: bool) -> None:
        """Leave the turn to others: to whoever looks next, or to the queue that it came from."""
        tenant, turn, owner = self.accepted.tenant, self.accepted.response_id, self.accepted.owner
        reply = await self._parts.store.release(tenant, turn, owner=owner, is_queued=is_queued)
        if reply.verdict is Verdict.OK and not is_queued:
            await self._look(in_s=0.0)

    async def _look(self, *, in_s: float) -> None:
        await self._parts.due.add(self.accepted.tenant, self.accepted.response_id, in_s=in_s)

    async def _commit(self, commit: Commit) -> Reply:
        reply = await self._parts.store.commit(commit)
        if reply.verdict is Verdict.ABSENT and (await self.begin_again()).verdict is Verdict.OK:
            return await self._parts.store.commit(commit)
        return reply


def _commit(accepted: Accepted, production: Production, state: TurnState, result: TurnResult) -> Commit:
    answer = answer_items(
        accepted.response_id,
        production.projection,
        list(result.ids),
        is_whole=state is TurnState.COMPLETED,
        window=accepted.draft.window,
    )
    is_kept = state is not TurnState.FAILED and (answer or state is not TurnState.CANCELLED)
    begin, ids = accepted.begin, production.projection.ids
    return Commit(
        tenant=begin.tenant,
        turn=begin.turn,
        conversation=begin.conversation,
        owner=begin.owner,
        state=state,
        base_version=begin.base_version,
        items=[*accepted.items, *answer] if is_kept else [],
        ids=ids,
        finish=result.reason.value,
        usage=_usage(result),
        hint=production.hint(),
        line=begin.line,
        logprobs=production.logprobs[: len(ids)],
        error_code=result.error_code,
        error_message=result.error_message,
    )


def _usage(result: TurnResult) -> dict[str, int]:
    usage = result.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
