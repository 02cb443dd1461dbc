"""What the gateway needs from outside, as one frozen value; the composition root fills it in.

The gateway knows turns, erasure and keys only by the protocols below, so any of their makers can be replaced.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Final, Protocol, cast

from fastapi import Depends, Request

from cluster.errors import ModelNotFoundError
from services.backend.base import Erased
from services.changes import Change
from services.conversations.records import Conversation, TurnRecord
from services.conversations.store import ConversationStore
from services.gateway.metrics import GatewayCounters
from services.gateway.schemas.status import ClusterStatus
from services.tenants.share import Share
from services.turns.events import ChatTurn, Cursor, StoredTurn, TurnEvent, TurnStarted

_MAX_ECHO: Final = 256  # characters of an unknown name that an error repeats

TurnStream = AsyncGenerator[TurnStarted | TurnEvent, None]


class Turns(Protocol):
    """Runs turns. The first item is TurnStarted, then numbered events; closing the generator cancels the turn.

    Typed errors are raised before the first item; later ones are the FAILED event.
    """

    def chat(self, turn: ChatTurn) -> TurnStream:
        """A stateless turn."""
        ...

    def respond(self, turn: StoredTurn) -> TurnStream:
        """A turn that the store keeps."""
        ...

    async def enqueue(self, turn: StoredTurn) -> str:
        """A turn that nobody waits for; its id."""
        ...

    def read(self, tenant: str, response_id: str, cursor: Cursor | None = None) -> TurnStream:
        """All events of a stored turn, by whomever it is computed; ``cursor`` must be one of them, but the last."""
        ...

    async def cancel(self, tenant: str, response_id: str) -> TurnRecord:
        """End a stored turn; its record after a moment."""
        ...


class Erases(Protocol):
    """Erases records and the KV that belongs to them."""

    async def erase_conversation(self, tenant: str, conversation: str) -> Erased:
        """Raises NotFoundError or StoreUnavailableError; replicas that were not reached are told."""
        ...

    async def erase_turn(self, tenant: str, turn: str) -> Erased:
        """The same for one response."""
        ...

    async def erase_item(self, tenant: str, conversation: str, item: str) -> Conversation:
        """The same for one item; its conversation. Raises ConversationBusyError too."""
        ...


class TenantLike(Protocol):
    """Who asks."""

    @property
    def id(self) -> str:
        """Prefixes every key of the store and salts the KV cache."""
        ...

    @property
    def share(self) -> Share:
        """What the operator has given it."""
        ...


class Authenticates(Protocol):
    """Knows the keys."""

    async def authenticate(self, bearer: str | None) -> TenantLike:
        """The key's tenant. Raises InvalidKeyError or StoreUnavailableError."""
        ...


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model. ``fingerprint`` changes with weights, tokenizer or template."""

    id: str
    created: int  # unix seconds
    context_length: int  # tokens
    fingerprint: str
    owned_by: str = "chatglm-cluster"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests would be served now; ``checks`` names each part and its state."""

    ready: bool
    checks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Bounds of one request."""

    max_body_bytes: int = 4 * 2**20
    keep_alive_s: float = 15.0  # silence after which a stream sends a comment
    write_timeout_s: float = 30.0  # a client that blocks one write longer is dropped


@dataclass(frozen=True, slots=True)
class GatewayDeps:
    """Everything the gateway uses.

    Attributes:
        readiness: asked by ``/readyz``.
        metrics: the cluster's snapshot, as (body, content type), for ``/metrics``.
        status: the cluster's status; raises RetryLaterError while nothing is known.
        change: carries an operator's change out; raises RetryLaterError, or what the change raises.
        operator_token: what opens ``/status``, see ``services.operator_token``.
        lifespan: entered before the first request and left after the last.
    """

    turns: Turns
    store: ConversationStore
    eraser: Erases
    authenticator: Authenticates
    models: tuple[ModelInfo, ...]
    readiness: Callable[[], Awaitable[Readiness]]
    metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    status: Callable[[], Awaitable[ClusterStatus]]
    change: Callable[[Change], Awaitable[None]]
    operator_token: str
    limits: GatewayLimits = GatewayLimits()
    counters: GatewayCounters = field(default_factory=GatewayCounters)
    lifespan: Callable[[], AbstractAsyncContextManager[object]] = nullcontext

    def model(self, name: str) -> ModelInfo:
        """The model of that name. Raises ModelNotFoundError."""
        for model in self.models:
            if model.id == name:
                return model
        raise ModelNotFoundError(name[:_MAX_ECHO])


async def deps_of(request: Request) -> GatewayDeps:
    """What ``create_app`` was given. FastAPI would send a function that is not async to a thread and back."""
    return cast("GatewayDeps", request.app.state.deps)


Deps = Annotated[GatewayDeps, Depends(deps_of)]
