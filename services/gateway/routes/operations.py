"""What operators and probes ask. Nothing of any tenant is told; ``/status`` and changes need the operator's key."""

from __future__ import annotations

from functools import partial
from typing import Final

from fastapi import APIRouter, Depends, Request
from starlette.responses import PlainTextResponse, Response

from cluster.errors import InvalidKeyError, RetryLaterError
from services.changes import restarted, scaled
from services.gateway.answers import BODY, Errors, answers, body_of, headers_of, problems
from services.gateway.auth import require_operator
from services.gateway.body import read_body
from services.gateway.deps import Deps
from services.gateway.schemas.changes import Accepted, ScaleRequest
from services.gateway.schemas.models import Health
from services.gateway.schemas.status import ClusterStatus

router = APIRouter(tags=["operations"])

_OPERATOR: Final[Errors] = (InvalidKeyError, RetryLaterError)
_NOT_READY: Final = {
    "model": Health,
    "description": "Requests would not be served now.",
    "headers": headers_of("Retry-After"),
}


@router.get("/healthz", responses=problems())
async def healthz() -> Health:
    """The process lives."""
    return Health(status="ok")


@router.get("/readyz", response_model=None, responses={**answers(Health), 503: _NOT_READY})
async def readyz(deps: Deps) -> Response:
    """Requests would be served now; if not, `checks` says what is missing."""
    readiness = await deps.readiness()
    health = Health(status="ready" if readiness.ready else "not_ready", checks=dict(readiness.checks))
    status = 200 if readiness.ready else 503
    headers = None if readiness.ready else {"retry-after": "1"}
    return Response(health.json_bytes(), status_code=status, headers=headers, media_type="application/json")


@router.get("/metrics", response_model=None, response_class=PlainTextResponse, responses=problems())
async def metrics(deps: Deps) -> Response:
    """The whole cluster's metrics, in Prometheus' format; every gateway gives the same."""
    body, content_type = await deps.metrics()
    return Response(body, headers={"content-type": content_type})


@router.get("/status", dependencies=[Depends(require_operator)], responses=answers(ClusterStatus, *_OPERATOR))
async def status(deps: Deps) -> ClusterStatus:
    """The whole cluster as its operator sees it; every gateway gives the same."""
    return await deps.status()


@router.post(
    "/scale",
    dependencies=[Depends(require_operator)],
    openapi_extra=body_of(ScaleRequest, replicas=2),
    responses=answers(Accepted, *_OPERATOR, *BODY),
)
async def scale(request: Request, deps: Deps) -> Accepted:
    """Change the number of replicas, gateways or dispatchers; those that stay are left alone."""
    body = await read_body(request, ScaleRequest)
    change = partial(scaled, replicas=body.replicas, gateways=body.gateways, dispatchers=body.dispatchers)
    await deps.change(change)
    return Accepted()


@router.post("/restart", dependencies=[Depends(require_operator)], responses=answers(Accepted, *_OPERATOR))
async def restart(deps: Deps) -> Accepted:
    """Replace every replica, gateway and dispatcher, a few at a time."""
    await deps.change(restarted)
    return Accepted()
