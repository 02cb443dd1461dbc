"""What operators and probes ask. Nothing of any tenant is told; ``/status`` and changes need the operator's key."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from services.changes import restarted, scaled
from services.gateway.auth import require_operator
from services.gateway.body import read_body
from services.gateway.deps import Deps
from services.gateway.openapi import answers, body_of
from services.gateway.schemas.changes import Accepted, ScaleRequest
from services.gateway.schemas.models import Health
from services.gateway.schemas.status import ClusterStatus

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process lives."""
    return Health(status="ok")


@router.get("/readyz", response_model=None, responses={200: {"model": Health}, 503: {"model": Health}})
async def readyz(deps: Deps) -> Response:
    """Requests would be served now; if not, `checks` says what is missing."""
    readiness = await deps.readiness()
    health = Health(status="ready" if readiness.ready else "not_ready", checks=dict(readiness.checks))
    status = 200 if readiness.ready else 503
    headers = None if readiness.ready else {"retry-after": "1"}
    return Response(health.json_bytes(), status_code=status, headers=headers, media_type="application/json")


@router.get("/metrics", response_model=None, responses={200: {"content": {"text/plain": {}}}})
async def metrics(deps: Deps) -> Response:
    """The whole cluster's metrics, in Prometheus' format; every gateway gives the same."""
    body, content_type = await deps.metrics()
    return Response(body, headers={"content-type": content_type})


@router.get("/status", dependencies=[Depends(require_operator)], responses=answers(ClusterStatus, 401, 503))
async def status(deps: Deps) -> ClusterStatus:
    """The whole cluster as its operator sees it; every gateway gives the same."""
    return await deps.status()


@router.post(
    "/scale",
    dependencies=[Depends(require_operator)],
    openapi_extra=body_of(ScaleRequest),
    responses=answers(Accepted, 400, 401, 503),
)
async def scale(request: Request, deps: Deps) -> Accepted:
    """Change the number of replicas or gateways; those that stay are left alone."""
    body = await read_body(request, ScaleRequest)
    await deps.change(partial(scaled, replicas=body.replicas, gateways=body.gateways))
    return Accepted()


@router.post("/restart", dependencies=[Depends(require_operator)], responses=answers(Accepted, 401, 503))
async def restart(deps: Deps) -> Accepted:
    """Replace every replica and gateway, a few at a time."""
    await deps.change(restarted)
    return Accepted()
