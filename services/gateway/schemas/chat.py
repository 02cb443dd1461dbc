"""The body of ``POST /v1/chat/completions``.

Fields of OpenAI's that would change the answer and are not offered yet are refused by name unless they ask for
nothing; fields we do not know are ignored, as OpenAI's clients expect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.errors import InvalidRequestError
from services.gateway.schemas.base import MaxTokens, Metadata, ModelName, RequestBody, only
from services.gateway.schemas.history import messages_of
from services.gateway.schemas.messages import ChatMessage
from services.gateway.schemas.sampling import SamplingFields, TopLogprobs, refuse_tools
from services.gateway.schemas.structure import ResponseFormat
from services.gateway.schemas.tiers import ServiceTier, share_in
from services.gateway.schemas.tools import Tools, tools_of
from services.tenants.share import Share
from services.turns.events import ChatTurn, GenerationOptions

MAX_CHOICES = 8


class StreamOptions(RequestBody):
    """What a stream carries besides text."""

    include_usage: bool | None = None


class ChatCompletionRequest(SamplingFields):
    """A stateless turn: the whole history comes with it."""

    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    metadata: Metadata | None = None
    tools: Tools | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None  # the model makes one call a turn whatever it says
    service_tier: ServiceTier | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    response_format: ResponseFormat | None = None

    store: Annotated[Any, only(False)] = None
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    modalities: Annotated[Any, only(["text"])] = None
    audio: Annotated[Any, only()] = None
    prediction: Annotated[Any, only()] = None
    reasoning_effort: Annotated[Any, only("none")] = None
    verbosity: Annotated[Any, only("medium")] = None
    web_search_options: Annotated[Any, only()] = None
    moderation: Annotated[Any, only()] = None

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def turn(self, *, tenant: str, share: Share, request_id: str) -> ChatTurn:
        """The turn asked for.

        Raises:
            InvalidRequestError: fields or messages contradict each other.
        """
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("Set stream to use stream_options.", param="stream_options")
        tools = tools_of(self.tools or [])
        offered = () if self.tool_choice == "none" else tools
        options = self._options()
        if offered:
            refuse_tools(options.structure, "structured_outputs" if self.structured_outputs else "response_format")
        return ChatTurn(
            tenant=tenant,
            request_id=request_id,
            messages=messages_of(self.messages),
            options=options,
            cache_key=self.prompt_cache_key or None,
            tools=offered,
            choices=self.n or 1,
            share=share_in(self.service_tier, share),
        )

    def _options(self) -> GenerationOptions:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs: Set logprobs to use top_logprobs.", param="top_logprobs")
        return self.options(
            self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            structure=self.response_format.structure() if self.response_format else None,
        )
