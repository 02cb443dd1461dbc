"""What HTTP itself lets a request be wrong in; every other error comes from further inside."""

from __future__ import annotations

from cluster.errors import CallerError


class BodyTooLargeError(CallerError):
    """The request's body is over the gateway's limit."""

    code = "body_too_large"


class MediaTypeError(CallerError):
    """The request's body is announced as something else than plain JSON."""

    code = "unsupported_media_type"


class MethodNotAllowedError(CallerError):
    """The path has no such method.

    Attributes:
        allowed: those that it has, as the Allow header writes them.
    """

    code = "method_not_allowed"

    def __init__(self, asked: str, allowed: str) -> None:
        super().__init__(f"{asked} is not allowed; use {allowed}.")
        self.allowed = allowed
