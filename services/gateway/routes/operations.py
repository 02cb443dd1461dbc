"""What operators and probes ask. Nothing of any tenant is told; only ``/status`` needs a key, the operator's."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.responses import Response

from services.gateway.auth import require_operator
from services.gateway.deps import Deps
from services.gateway.openapi import answers
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
