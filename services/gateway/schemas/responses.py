"""The body of ``POST /v1/responses``.

``store`` is true unless said otherwise: such a turn is a record in the store, with or without a conversation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, WithJsonSchema

from cluster.errors import InvalidRequestError
from services.gateway.schemas.base import (
    MAX_INT32,
    MaxTokens,
    Metadata,
    ModelName,
    RequestBody,
    one_or_many,
    only,
)
from services.gateway.schemas.conversations import ItemQuery
from services.gateway.schemas.messages import InputItem
from services.gateway.schemas.params import CONVERSATION, RESPONSE
from services.gateway.schemas.query import WHOLE, Flag
from services.gateway.schemas.response import ConversationOfResponse, ResponseView, TextSettings
from services.gateway.schemas.sampling import SamplingFields, TopLogprobs
from services.gateway.schemas.structure import TextFormat
from services.gateway.schemas.tiers import ServiceTier, share_in
from services.tenants.share import Share
from services.turns.events import ChatTurn, GenerationOptions, Idempotency, Message, Role, StoredTurn, Truncation
from services.turns.sampling import DEFAULTS

# A malformed id is an unknown one, as in a path.
ConversationName = Annotated[str, WithJsonSchema({"type": "string", "pattern": CONVERSATION})]
ResponseName = Annotated[str, Field(min_length=1), WithJsonSchema({"type": "string", "pattern": RESPONSE})]


class ConversationRef(RequestBody):
    """A conversation, by id."""

    id: ConversationName


class TextConfig(RequestBody):
    """The shape of the text."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, only("medium")] = None


class ResponseStreamOptions(RequestBody):
    """Accepted for the official client's sake; events are never padded."""

    include_obfuscation: bool | None = None


class RetrieveQuery(ItemQuery):
    """How a response is asked for."""

    stream: Flag = False
    starting_after: Annotated[int, Field(ge=0, le=MAX_INT32), WHOLE] | None = None
    include_obfuscation: Flag | None = None


def _conversation_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "<id>"
    return "<object>" if isinstance(value, dict) else None


Input = Annotated[
    Annotated[str, Tag("<one>")] | Annotated[list[InputItem], Field(min_length=1), Tag("<many>")],
    one_or_many("items"),
]
Conversation = Annotated[
    Annotated[ConversationName, Tag("<id>")] | Annotated[ConversationRef, Tag("<object>")],
    Discriminator(
        _conversation_kind,
        custom_error_type="conversation",
        custom_error_message="Input should be a conversation id or an object with one",
    ),
]


class ResponseRequest(SamplingFields):
    """A turn: stored (the default), in a conversation or not; or stateless with ``store: false``."""

    model: ModelName
    input: Input
    instructions: str | None = None
    conversation: Conversation | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: MaxTokens | None = None
    metadata: Metadata | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    text: TextConfig | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: TopLogprobs | None = None
    parallel_tool_calls: bool | None = None
    service_tier: ServiceTier | None = None
    truncation: Literal["auto", "disabled"] | None = None
    previous_response_id: ResponseName | None = None
    background: bool | None = None

    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    max_tool_calls: Annotated[Any, only()] = None
    prompt: Annotated[Any, only()] = None
    reasoning: Annotated[Any, only({})] = None
    moderation: Annotated[Any, only()] = None
    context_management: Annotated[Any, only([])] = None

    @property
    def is_stored(self) -> bool:
        """Whether the turn is a record in the store."""
        return self.store is not False

    @property
    def conversation_id(self) -> str | None:
        """The conversation the turn belongs to."""
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation

    @property
    def truncates(self) -> Truncation:
        """What happens to a history that is too long."""
        return Truncation(self.truncation or Truncation.DISABLED)

    @property
    def text_format(self) -> dict[str, Any]:
        """The shape of the text, as it was asked for."""
        wanted = self.text.format if self.text else None
        return {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True)

    def turn(
        self, *, tenant: str, share: Share, request_id: str, idempotency: Idempotency | None = None
    ) -> StoredTurn | ChatTurn:
        """The turn asked for. ``idempotency`` is of no use to a stateless one: nothing of it is kept.

        Raises:
            InvalidRequestError: fields contradict each other.
        """
        self._check_place()
        if self.is_stored:
            return self._stored(tenant, share_in(self.service_tier, share), request_id, idempotency)
        return self._stateless(tenant, share_in(self.service_tier, share), request_id)

    def _check_place(self) -> None:
        if self.conversation is not None and self.previous_response_id is not None:
            message = "A turn goes on either in a conversation or behind a response, not both."
            raise InvalidRequestError(message, param="previous_response_id")
        if self.is_stored:
            return
        if self.conversation is not None or self.previous_response_id is not None:
            raise InvalidRequestError("A turn that goes on from an earlier one is always stored.", param="store")
        if self.background:
            raise InvalidRequestError("A turn in the background is always stored.", param="store")

    def view(self) -> ResponseView:
        """What the response repeats of this request."""
        conversation = self.conversation_id
        return ResponseView(
            background=bool(self.background),
            instructions=self.instructions,
            max_output_tokens=self.max_output_tokens,
            metadata=dict(self.metadata or {}),
            model=self.model,
            previous_response_id=self.previous_response_id,
            conversation=None if conversation is None else ConversationOfResponse(id=conversation),
            prompt_cache_key=self.prompt_cache_key,
            service_tier="flex" if self.service_tier == "flex" else "default",
            store=self.is_stored,
            temperature=DEFAULTS.temperature if self.temperature is None else self.temperature,
            text=TextSettings(format=self.text_format),
            top_logprobs=self.top_logprobs or 0,
            top_p=DEFAULTS.top_p if self.top_p is None else self.top_p,
            truncation=self.truncates.value,
            user=self.user,
        )

    def _options(self) -> GenerationOptions:
        if self.top_logprobs and not self.include:
            message = "top_logprobs: Put 'message.output_text.logprobs' into include to use top_logprobs."
            raise InvalidRequestError(message, param="top_logprobs")
        wanted = self.text.format if self.text else None
        return self.options(
            self.max_output_tokens,
            logprobs=(self.top_logprobs or 0) if self.include else None,
            structure=wanted.structure() if wanted else None,
        )

    def _messages(self) -> tuple[Message, ...]:
        if isinstance(self.input, str):
            return (Message(Role.USER, self.input),)
        return tuple(item.message() for item in self.input)

    def _stored(self, tenant: str, share: Share, request_id: str, idempotency: Idempotency | None) -> StoredTurn:
        return StoredTurn(
            tenant=tenant,
            request_id=request_id,
            input=self._messages(),
            conversation=self.conversation_id,
            instructions=self.instructions,
            options=self._options(),
            metadata=dict(self.metadata or {}),
            share=share,
            truncation=self.truncates,
            previous=self.previous_response_id,
            is_background=bool(self.background),
            view=self.view().to_record(),
            idempotency=idempotency,
        )

    def _stateless(self, tenant: str, share: Share, request_id: str) -> ChatTurn:
        system = () if self.instructions is None else (Message(Role.SYSTEM, self.instructions),)
        return ChatTurn(
            tenant=tenant,
            request_id=request_id,
            messages=system + self._messages(),
            options=self._options(),
            cache_key=self.prompt_cache_key or None,
            share=share,
            truncation=self.truncates,
        )
