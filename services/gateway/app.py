"""The gateway's application.

``create_app`` has no side effects and keeps no state outside the application, so a test or a deployment can make as
many as it likes. Servers must run its lifespan: it starts and stops what ``deps.lifespan`` brings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from services.gateway import handlers
from services.gateway.deps import GatewayDeps
from services.gateway.middleware import BodyLimit, RequestScope
from services.gateway.openapi import DESCRIPTION, DocumentedApp
from services.gateway.routes import chat_completions, conversations, models, operations, responses


def create_app(deps: GatewayDeps) -> FastAPI:
    """An ASGI application that serves ``deps`` in OpenAI's shapes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with deps.lifespan():
            yield

    app = DocumentedApp(
        title="chatglm-cluster",
        description=DESCRIPTION,
        version=version("chatglm-cluster"),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.model_names = [model.id for model in deps.models]
    app.state.deps = deps
    app.add_middleware(BodyLimit, max_bytes=deps.limits.max_body_bytes)
    app.add_middleware(RequestScope, counters=deps.counters)  # the last one added is the outermost
    handlers.install(app)
    for group in (chat_completions, responses, conversations, models, operations):
        app.include_router(group.router)
    return app
