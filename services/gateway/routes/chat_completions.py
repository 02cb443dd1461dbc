"""``POST /v1/chat/completions``: stateless turns."""

from __future__ import annotations

import secrets
import uuid
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.answers import BODY, CHAT, KEY, answers, body_of
from services.gateway.auth import CurrentTenant
from services.gateway.body import read_body
from services.gateway.deps import Deps
from services.gateway.rendering.chat import ChatRendering
from services.gateway.reply import TurnReply
from services.gateway.schemas.chat import ChatCompletionRequest
from services.gateway.schemas.chat_completion import ChatCompletion
from services.gateway.summary import summary_of

router = APIRouter(tags=["chat"])

_CALL_ID_BYTES = 12  # 24 characters


@router.post(
    "/v1/chat/completions",
    response_model=None,
    openapi_extra=body_of(ChatCompletionRequest, model="", messages=[{"role": "user", "content": "What is pinning?"}]),
    responses=answers(ChatCompletion, *KEY, *BODY, *CHAT, is_streamed=True),
)
async def create_chat_completion(request: Request, deps: Deps, tenant: CurrentTenant) -> Response:
    """Answer a chat whose whole history comes with the request."""
    body = await read_body(request, ChatCompletionRequest)
    model = deps.model(body.model)
    turn = body.turn(tenant=tenant.id, share=tenant.share, request_id=summary_of(request.scope).request_id)
    rendering = partial(
        ChatRendering,
        completion_id=f"chatcmpl-{uuid.uuid4().hex}",
        call_id=f"call_{secrets.token_hex(_CALL_ID_BYTES)}",
        model=model,
        include_usage=body.include_usage,
        choices=turn.choices,
        logprobs=bool(body.logprobs),
    )
    return TurnReply(deps.turns.chat(turn), rendering, is_stream=bool(body.stream), limits=deps.limits)
