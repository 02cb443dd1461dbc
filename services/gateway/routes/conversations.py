"""``/v1/conversations``: make, look at and erase conversations. Another tenant's id is an unknown one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from services.conversations.item_store import ItemPage
from services.gateway.auth import CurrentTenant
from services.gateway.body import read_body
from services.gateway.deps import Deps
from services.gateway.openapi import answers, body_of
from services.gateway.schemas.base import Shape
from services.gateway.schemas.conversations import (
    Conversation,
    ConversationDeleted,
    ConversationItems,
    ConversationMessage,
    ConversationRequest,
    ErasedPages,
    PageQuery,
)

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])


@router.post(
    "",
    response_model=None,
    openapi_extra=body_of(ConversationRequest),
    responses=answers(Conversation, 400, 401, 413, 503),
)
async def create_conversation(request: Request, deps: Deps, tenant: CurrentTenant) -> Response:
    """Begin a conversation, empty or with up to 20 messages."""
    body = await read_body(request, ConversationRequest)
    made = await deps.store.create(tenant.id, metadata=dict(body.metadata or {}), items=body.records())
    return _json(Conversation.of(made))


@router.get("/{conversation}", response_model=None, responses=answers(Conversation, 401, 404, 503))
async def get_conversation(conversation: str, deps: Deps, tenant: CurrentTenant) -> Response:
    """A conversation without its items."""
    return _json(Conversation.of(await deps.store.conversation(tenant.id, conversation)))


@router.delete("/{conversation}", response_model=None, responses=answers(ConversationDeleted, 401, 404, 503))
async def delete_conversation(conversation: str, deps: Deps, tenant: CurrentTenant) -> Response:
    """Erase a conversation and all its turns, and drop its KV on every replica that can be reached."""
    erased = await deps.eraser.erase_conversation(tenant.id, conversation)
    return _json(ConversationDeleted(id=conversation, erased=ErasedPages.of(erased)))


@router.get("/{conversation}/items", response_model=None, responses=answers(ConversationItems, 400, 401, 404, 503))
async def list_items(
    conversation: str,
    deps: Deps,
    tenant: CurrentTenant,
    asked: Annotated[PageQuery, Query()],
) -> Response:
    """A page of a conversation's items, newest first unless asked otherwise."""
    page = await deps.store.items(
        tenant.id, conversation, after=asked.after, limit=asked.limit, descending=asked.order == "desc"
    )
    return _json(_page(page))


def _page(page: ItemPage) -> ConversationItems:
    data = [ConversationMessage.of(item) for item in page.items]
    return ConversationItems(
        data=data,
        first_id=data[0].id if data else "",
        last_id=data[-1].id if data else "",
        has_more=page.has_more,
    )


def _json(shape: Shape) -> Response:
    return Response(shape.json_bytes(), media_type="application/json")
