"""``/v1/responses``: stored turns, and stateless ones in the same shape. Another tenant's id is an unknown one."""

from __future__ import annotations

import uuid
from contextlib import aclosing
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from starlette import responses as starlette

from cluster.errors import (
    ConversationBusyError,
    CursorPastEndError,
    IdempotencyMismatchError,
    InvalidRequestError,
    NotFoundError,
    PreviousResponseDeletedError,
    PreviousResponseError,
    QueueFullError,
    StreamDivergedError,
)
from services.conversations.records import TurnRecord, TurnState
from services.gateway.answers import BODY, CHAT, KEY, STORED, Errors, answers, body_of
from services.gateway.auth import CurrentTenant
from services.gateway.body import read_body
from services.gateway.cursors import cursor_of
from services.gateway.deps import Deps, GatewayDeps
from services.gateway.idempotency import idempotency_of
from services.gateway.rendering.responses import ResponseRendering, begun
from services.gateway.repeats import refuse_repeats
from services.gateway.reply import TurnReply
from services.gateway.schemas.conversations import ConversationItems, PageQuery
from services.gateway.schemas.erased import ErasedPages
from services.gateway.schemas.paging import page_of
from services.gateway.schemas.params import IdempotencyKey, LastEventId, ResponseId
from services.gateway.schemas.response import Response, ResponseDeleted, ResponseView
from services.gateway.schemas.responses import ResponseRequest, RetrieveQuery
from services.gateway.summary import summary_of
from services.turns.events import ChatTurn, Cursor, TurnEvent, TurnStarted

router = APIRouter(prefix="/v1/responses", tags=["responses"], dependencies=[Depends(refuse_repeats)])

_KNOWN: Final[Errors] = (*KEY, NotFoundError, InvalidRequestError)  # of a route that takes an id
_PLACE: Final[Errors] = (
    PreviousResponseError,
    PreviousResponseDeletedError,
    ConversationBusyError,
    IdempotencyMismatchError,
    QueueFullError,
)


@router.post(
    "",
    response_model=None,
    openapi_extra=body_of(ResponseRequest, model="", input="What is pinning?"),
    responses=answers(Response, *_KNOWN, *BODY, *CHAT, *STORED, *_PLACE, is_streamed=True),
)
async def create_response(
    request: Request, deps: Deps, tenant: CurrentTenant, key: IdempotencyKey = None
) -> starlette.Response:
    """Answer a turn, and keep it unless `store` is false; with `background`, accept it and answer later.

    A stored turn that is sent again with the same `Idempotency-Key` is answered once.
    """
    body = await read_body(request, ResponseRequest)
    deps.model(body.model)
    turn = body.turn(
        tenant=tenant.id,
        share=tenant.share,
        request_id=summary_of(request.scope).request_id,
        idempotency=await idempotency_of(request, key),
    )
    if not isinstance(turn, ChatTurn) and turn.is_background:
        return await _accepted(deps, tenant.id, await deps.turns.enqueue(turn), is_stream=bool(body.stream))
    stream = deps.turns.chat(turn) if isinstance(turn, ChatTurn) else deps.turns.respond(turn)

    def rendering(started: TurnStarted) -> ResponseRendering:
        response_id = started.response_id or f"resp_{uuid.uuid4().hex}"
        return ResponseRendering(started, response_id=response_id, view=body.view())

    return TurnReply(stream, rendering, is_stream=bool(body.stream), limits=deps.limits)


@router.get(
    "/{response}",
    response_model=None,
    responses=answers(Response, *_KNOWN, CursorPastEndError, StreamDivergedError, is_streamed=True),
)
async def get_response(
    response: ResponseId,
    deps: Deps,
    tenant: CurrentTenant,
    asked: Annotated[RetrieveQuery, Query()],
    last_event_id: LastEventId = None,
) -> starlette.Response:
    """A stored response as it is now; with `stream`, its events behind `starting_after` or `Last-Event-ID`, live."""
    cursor = cursor_of(asked, last_event_id)
    record = await deps.store.turn(tenant.id, response)
    if asked.stream:
        return _stream(deps, tenant.id, record, cursor)
    return await _shown(deps, tenant.id, record)


@router.delete("/{response}", response_model=None, responses=answers(ResponseDeleted, *_KNOWN))
async def delete_response(response: ResponseId, deps: Deps, tenant: CurrentTenant) -> starlette.Response:
    """Erase a response, and drop its KV on every replica. Items that belong to a conversation stay there."""
    erased = await deps.eraser.erase_turn(tenant.id, response)
    deleted = ResponseDeleted(id=response, erased=ErasedPages.of(erased))
    return starlette.Response(deleted.json_bytes(), media_type="application/json")


@router.post("/{response}/cancel", response_model=None, responses=answers(Response, *_KNOWN))
async def cancel_response(response: ResponseId, deps: Deps, tenant: CurrentTenant) -> starlette.Response:
    """End a response. One that runs may take a moment: the answer then says `in_progress`."""
    return await _shown(deps, tenant.id, await deps.turns.cancel(tenant.id, response))


@router.get("/{response}/input_items", response_model=None, responses=answers(ConversationItems, *_KNOWN))
async def list_input_items(
    response: ResponseId, deps: Deps, tenant: CurrentTenant, asked: Annotated[PageQuery, Query()]
) -> starlette.Response:
    """A page of the items that a response was sent, newest first unless asked otherwise."""
    items = await deps.store.turn_input(tenant.id, await deps.store.turn(tenant.id, response))
    return starlette.Response(page_of(items, asked).json_bytes(), media_type="application/json")


async def _accepted(deps: GatewayDeps, tenant: str, response: str, *, is_stream: bool) -> starlette.Response:
    record = await deps.store.turn(tenant, response)
    return _stream(deps, tenant, record, None) if is_stream else await _shown(deps, tenant, record)


def _stream(deps: GatewayDeps, tenant: str, record: TurnRecord, cursor: Cursor | None) -> TurnReply:
    def rendering(started: TurnStarted) -> ResponseRendering:
        return _rendering(started, record, after=cursor.seq if cursor else -1)

    stream = deps.turns.read(tenant, record.id, cursor)
    return TurnReply(stream, rendering, is_stream=True, limits=deps.limits)


async def _shown(deps: GatewayDeps, tenant: str, record: TurnRecord) -> starlette.Response:
    """A response as it is now, whatever became of it."""
    if record.state.is_open:
        response = begun(ResponseView.of_record(record.request), record.id, record.created_at)
        status = {"status": "queued" if record.state is TurnState.QUEUED else "in_progress"}
        return starlette.Response(response.model_copy(update=status).json_bytes(), media_type="application/json")
    async with aclosing(deps.turns.read(tenant, record.id)) as events:
        started = await anext(events)
        assert isinstance(started, TurnStarted)
        last = [event async for event in events][-1]
    assert isinstance(last, TurnEvent)
    assert last.result is not None
    body = _rendering(started, record).whole(last, last.result)
    return starlette.Response(body, media_type="application/json")


def _rendering(started: TurnStarted, record: TurnRecord, *, after: int = -1) -> ResponseRendering:
    view = ResponseView.of_record(record.request)
    return ResponseRendering(started, response_id=record.id, view=view, after=after)
