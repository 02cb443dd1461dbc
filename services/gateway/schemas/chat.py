"""The body of ``POST /v1/chat/completions``.

Fields of OpenAI's that would change the answer and are not offered yet are refused by name unless they ask for
nothing; fields we do not know are ignored, as OpenAI's clients expect.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from cluster.errors import InvalidRequestError
from services.gateway.schemas.base import MaxTokens, Metadata, ModelName, RequestBody, SamplingFields, only
from services.gateway.schemas.history import messages_of
from services.gateway.schemas.messages import ChatMessage
from services.gateway.schemas.tiers import ServiceTier, share_in
from services.gateway.schemas.tools import Tools, tools_of
from services.tenants.share import Share
from services.turns.events import ChatTurn


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
    tool_choice: Annotated[Any, only("none", "auto")] = None
    parallel_tool_calls: bool | None = None  # the model makes one call a turn whatever it says
    service_tier: ServiceTier | None = None

    n: Annotated[Any, only(1)] = None
    store: Annotated[Any, only(False)] = None
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    logprobs: Annotated[Any, only(False)] = None
    top_logprobs: Annotated[Any, only(0)] = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    logit_bias: Annotated[Any, only({})] = None
    presence_penalty: Annotated[Any, only(0, 0.0)] = None
    frequency_penalty: Annotated[Any, only(0, 0.0)] = None
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
        return ChatTurn(
            tenant=tenant,
            request_id=request_id,
            messages=messages_of(self.messages),
            options=self.options(self.max_completion_tokens or self.max_tokens),
            cache_key=self.prompt_cache_key or None,
            tools=() if self.tool_choice == "none" else tools,
            share=share_in(self.service_tier, share),
        )
