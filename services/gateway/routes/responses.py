"""``POST /v1/responses``: stored turns, and stateless ones in the same shape."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request
from starlette import responses as starlette

from services.gateway.auth import CurrentTenant
from services.gateway.body import read_body
from services.gateway.deps import Deps
from services.gateway.openapi import answers, body_of
from services.gateway.rendering.responses import ResponseRendering
from services.gateway.reply import TurnReply
from services.gateway.schemas.response import Response
from services.gateway.schemas.responses import ResponseRequest
from services.gateway.summary import summary_of
from services.turns.events import StoredTurn, TurnStarted

router = APIRouter(tags=["responses"])


@router.post(
    "/v1/responses",
    response_model=None,
    openapi_extra=body_of(ResponseRequest),
    responses=answers(Response, 400, 401, 404, 409, 413, 429, 503, is_streamed=True),
)
async def create_response(request: Request, deps: Deps, tenant: CurrentTenant) -> starlette.Response:
    """Answer a turn, and keep it unless `store` is false."""
    body = await read_body(request, ResponseRequest)
    deps.model(body.model)
    turn = body.turn(tenant=tenant.id, share=tenant.share, request_id=summary_of(request.scope).request_id)
    stream = deps.turns.respond(turn) if isinstance(turn, StoredTurn) else deps.turns.chat(turn)

    def rendering(started: TurnStarted) -> ResponseRendering:
        response_id = started.response_id or f"resp_{uuid.uuid4().hex}"
        return ResponseRendering(started, response_id=response_id, request=body)

    return TurnReply(stream, rendering, is_stream=bool(body.stream), limits=deps.limits)
