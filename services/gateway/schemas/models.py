"""Served models, and errors: the smallest shapes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.gateway.schemas.base import Shape


class Model(Shape):
    """A model that is served. ``context_length`` is our extra."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    context_length: int


class ModelList(Shape):
    """All models that are served."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(Shape):
    """What is wrong, and where."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Shape):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class Health(Shape):
    """Whether the process lives, or serves; ``checks`` says what is missing."""

    status: Literal["ok", "ready", "not_ready"]
    checks: dict[str, str] = Field(default_factory=dict)
