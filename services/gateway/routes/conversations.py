"""``/v1/conversations``: make, change, read, export and erase conversations and their items.

Another tenant's id is an unknown one.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from cluster.errors import ConversationBusyError, ConversationFullError, InvalidRequestError, NotFoundError
from services.conversations.export import export
from services.gateway.answers import BODY, KEY, Errors, answers, body_of, problems
from services.gateway.auth import CurrentTenant
from services.gateway.body import read_body
from services.gateway.deps import Deps
from services.gateway.lines_reply import LinesReply
from services.gateway.repeats import refuse_repeats
from services.gateway.schemas.base import Shape
from services.gateway.schemas.conversations import (
    Conversation,
    ConversationDeleted,
    ConversationItems,
    ConversationMessage,
    ConversationRequest,
    ConversationUpdate,
    ItemQuery,
    ItemsRequest,
    PageQuery,
)
from services.gateway.schemas.erased import ErasedPages
from services.gateway.schemas.params import ConversationId, ItemId

router = APIRouter(prefix="/v1/conversations", tags=["conversations"], dependencies=[Depends(refuse_repeats)])

_KNOWN: Final[Errors] = (*KEY, NotFoundError, InvalidRequestError)  # of a route that takes an id
_SAID: Final = {"role": "user", "content": "Hi! My name is Anna."}


@router.post(
    "",
    response_model=None,
    openapi_extra=body_of(ConversationRequest, metadata={"topic": "demo"}, items=[_SAID]),
    responses=answers(Conversation, *KEY, *BODY),
)
async def create_conversation(request: Request, deps: Deps, tenant: CurrentTenant) -> Response:
    """Begin a conversation, empty or with up to 20 messages."""
    body = await read_body(request, ConversationRequest)
    made = await deps.store.create(
        tenant.id, metadata=dict(body.metadata or {}), items=body.records(), ttl_s=tenant.share.history_ttl_s
    )
    return _json(Conversation.of(made))


@router.get("/{conversation}", response_model=None, responses=answers(Conversation, *_KNOWN))
async def get_conversation(conversation: ConversationId, deps: Deps, tenant: CurrentTenant) -> Response:
    """A conversation without its items."""
    return _json(Conversation.of(await deps.store.conversation(tenant.id, conversation)))


@router.post(
    "/{conversation}",
    response_model=None,
    openapi_extra=body_of(ConversationUpdate, metadata={"topic": "demo"}),
    responses=answers(Conversation, *_KNOWN, *BODY),
)
async def update_conversation(
    request: Request, conversation: ConversationId, deps: Deps, tenant: CurrentTenant
) -> Response:
    """Replace a conversation's metadata, even while a turn of it runs."""
    body = await read_body(request, ConversationUpdate)
    return _json(Conversation.of(await deps.store.set_metadata(tenant.id, conversation, dict(body.metadata or {}))))


@router.delete("/{conversation}", response_model=None, responses=answers(ConversationDeleted, *_KNOWN))
async def delete_conversation(conversation: ConversationId, deps: Deps, tenant: CurrentTenant) -> Response:
    """Erase a conversation and all its turns, and drop its KV on every replica that can be reached."""
    erased = await deps.eraser.erase_conversation(tenant.id, conversation)
    return _json(ConversationDeleted(id=conversation, erased=ErasedPages.of(erased)))


@router.get("/{conversation}/items", response_model=None, responses=answers(ConversationItems, *_KNOWN))
async def list_items(
    conversation: ConversationId, deps: Deps, tenant: CurrentTenant, asked: Annotated[PageQuery, Query()]
) -> Response:
    """A page of a conversation's items, newest first unless asked otherwise."""
    page = await deps.store.items(
        tenant.id,
        conversation,
        after=asked.before or asked.after,
        limit=asked.limit,
        descending=asked.is_descending,
    )
    items = page.items[::-1] if asked.before else page.items
    return _json(ConversationItems.of(items, has_more=page.has_more))


@router.post(
    "/{conversation}/items",
    response_model=None,
    openapi_extra=body_of(ItemsRequest, items=[_SAID]),
    responses=answers(ConversationItems, *_KNOWN, *BODY, ConversationBusyError, ConversationFullError),
)
async def create_items(
    request: Request, conversation: ConversationId, deps: Deps, tenant: CurrentTenant, _: Annotated[ItemQuery, Query()]
) -> Response:
    """Append up to 20 items, all or none; refused while a turn of the conversation runs."""
    body = await read_body(request, ItemsRequest)
    added = await deps.store.append_items(tenant.id, conversation, body.records())
    return _json(ConversationItems.of(added, has_more=False))


@router.get("/{conversation}/items/{item}", response_model=None, responses=answers(ConversationMessage, *_KNOWN))
async def get_item(
    conversation: ConversationId, item: ItemId, deps: Deps, tenant: CurrentTenant, _: Annotated[ItemQuery, Query()]
) -> Response:
    """One item of a conversation."""
    return _json(ConversationMessage.of(await deps.store.item(tenant.id, conversation, item)))


@router.delete(
    "/{conversation}/items/{item}", response_model=None, responses=answers(Conversation, *_KNOWN, ConversationBusyError)
)
async def delete_item(conversation: ConversationId, item: ItemId, deps: Deps, tenant: CurrentTenant) -> Response:
    """Erase one item, here and for the branches that share it, and drop the conversation's KV on every replica.

    Refused while a turn of the conversation runs.
    """
    return _json(Conversation.of(await deps.eraser.erase_item(tenant.id, conversation, item)))


@router.get(
    "/{conversation}/export",
    response_model=None,
    response_class=LinesReply,
    status_code=200,
    responses=problems(*_KNOWN),
)
async def export_conversation(conversation: ConversationId, deps: Deps, tenant: CurrentTenant) -> Response:
    """The conversation and the items that it has now, as JSON Lines."""
    lines = export(deps.store, tenant.id, conversation)
    return LinesReply(lines, write_timeout_s=deps.limits.write_timeout_s)


def _json(shape: Shape) -> Response:
    return Response(shape.json_bytes(), media_type="application/json")
