"""``/v1/models``: what is served."""

from __future__ import annotations

from fastapi import APIRouter

from cluster.errors import ModelNotFoundError
from services.gateway.answers import KEY, answers
from services.gateway.auth import CurrentTenant
from services.gateway.deps import Deps, ModelInfo
from services.gateway.schemas.models import Model, ModelList

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=answers(ModelList, *KEY))
async def list_models(deps: Deps, _: CurrentTenant) -> ModelList:
    """All served models."""
    return ModelList(data=[_shape(model) for model in deps.models])


@router.get("/{model:path}", responses=answers(Model, *KEY, ModelNotFoundError))
async def get_model(model: str, deps: Deps, _: CurrentTenant) -> Model:
    """One served model; names may hold slashes."""
    return _shape(deps.model(model))


def _shape(model: ModelInfo) -> Model:
    return Model(id=model.id, created=model.created, owned_by=model.owned_by, context_length=model.context_length)
