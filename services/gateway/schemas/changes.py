"""What an operator asks to be changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.gateway.schemas.base import RequestBody, Shape

Count = Annotated[int, Field(ge=1, le=1024)]


class ScaleRequest(RequestBody):
    """Numbers that the cluster should have; null leaves one as it is."""

    replicas: Count | None = None
    gateways: Count | None = None
    dispatchers: Count | None = None


class Accepted(Shape):
    """The change is on its way; ``/status`` shows how far it is."""

    object: Literal["accepted"] = "accepted"
