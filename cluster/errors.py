"""Every error of the project, sorted by who can act on it.

ClusterError
├── CallerError                the caller must change the request (HTTP 4xx)
│   ├── InvalidRequestError        a field is wrong; names it
│   │   └── ConversationFullError      the conversation takes no more items
│   ├── ContextLengthExceededError prompt and requested output do not fit the context
│   ├── InvalidKeyError            no, wrong, revoked or malformed API key
│   ├── NotFoundError              no such conversation, item, response or route for this tenant
│   │   └── ModelNotFoundError         no such model is served
│   ├── PreviousResponseError      there is no such earlier answer to go on from
│   │   └── PreviousResponseDeletedError  there was one, but it has been erased
│   ├── ConversationBusyError      another turn of the conversation is running
│   ├── IdempotencyMismatchError   another request was sent under the same idempotency key
│   └── CursorPastEndError         a stream is to go on behind its last event
├── RetryLaterError            the same request may succeed later (HTTP 429 / 503 with Retry-After)
│   ├── OverloadedError            the engine's queue is full
│   ├── QueueFullError             the tenant has as many turns in the queue as it may
│   ├── NoReplicaError             no replica is alive, or none took the turn in time
│   └── StoreUnavailableError      Redis is away; stored turns cannot be accepted
├── TurnError                  a turn that had begun could not be finished
│   ├── GenerationFailedError      the engine could not go on with this sequence (for instance NaN logits)
│   ├── TurnMovedError             another owner has taken the turn over; read it from there
│   ├── TurnLostError              the turn's record is gone; nothing more can be written
│   ├── PromptMismatchError        the turn's prompt cannot be made again as it was
│   ├── ModelReplacedError         the turn was begun on another model than there is now
│   ├── StreamDivergedError        the answer was computed again, and differs from what its reader has
│   └── DeadlineExceededError      the turn's own deadline passed
├── ToolCallError              what the model wrote as a tool call is none; keeps its text
├── ChannelError               the token channel between a replica and a turn's owner broke
├── CheckpointError            a checkpoint folder cannot be served; names the file and the tensor
└── ConfigurationError         a setting is wrong; names it

Inner layers raise these; only ``services.gateway.problems`` knows HTTP. ``code`` is stable and part of the API.
"""

from __future__ import annotations

from typing import ClassVar


class ClusterError(Exception):
    """Base of all errors of the project; ``str(error)`` is one sentence for the person who meets it."""

    code: ClassVar[str] = "internal_error"


class CallerError(ClusterError):
    """The caller must change the request."""

    code = "invalid_request"


class InvalidRequestError(CallerError):
    """A field of the request is wrong.

    Attributes:
        param: dotted name of the field, as the caller wrote it.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ConversationFullError(InvalidRequestError):
    """The conversation would hold more items than the cluster takes.

    Attributes:
        held: items that it holds.
        limit: items that it may hold.
    """

    code = "conversation_full"

    def __init__(self, *, held: int, limit: int) -> None:
        super().__init__(
            f"items: The conversation holds {held} of at most {limit} items, so these do not fit. "
            "Delete some of its items, or go on in a new conversation.",
            param="items",
        )
        self.held = held
        self.limit = limit


class ContextLengthExceededError(CallerError):
    """Prompt and requested output together do not fit the model's context.

    Attributes:
        prompt_tokens: length of the encoded prompt.
        max_tokens: requested output tokens (0 when the prompt alone is too long).
        context_length: positions the model has.
    """

    code = "context_length_exceeded"

    def __init__(self, *, prompt_tokens: int, max_tokens: int, context_length: int, can_truncate: bool = False) -> None:
        advice = ", or leave out the oldest turns with truncation 'auto'" if can_truncate else ""
        super().__init__(
            f"This model's context is {context_length} tokens, but the request needs at least "
            f"{prompt_tokens + max_tokens} ({prompt_tokens} in the messages, {max_tokens} for the answer). "
            f"Shorten the messages or lower max_tokens{advice}."
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context_length = context_length


class InvalidKeyError(CallerError):
    """The API key is missing, malformed, unknown or revoked. Says nothing about which."""

    code = "invalid_api_key"


class NotFoundError(CallerError):
    """The named thing does not exist for this tenant.

    Attributes:
        kind: ``model``, ``conversation``, ``item``, ``response`` or ``route``.
        name: what was asked for.
    """

    code = "not_found"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"No {kind} {name!r} was found.")
        self.kind = kind
        self.name = name


class ModelNotFoundError(NotFoundError):
    """No such model is served."""

    code = "model_not_found"

    def __init__(self, name: str) -> None:
        super().__init__("model", name)


class PreviousResponseError(CallerError):
    """There is no such earlier answer to go on from."""

    code = "previous_response_not_found"
    _said = "No response {!r} was found to go on from."

    def __init__(self, name: str) -> None:
        super().__init__(self._said.format(name))


class PreviousResponseDeletedError(PreviousResponseError):
    """The earlier answer has been erased."""

    code = "previous_response_deleted"
    _said = "The response {!r} was deleted; go on from an earlier one."


class IdempotencyMismatchError(CallerError):
    """Another request was sent under the same idempotency key."""

    code = "idempotency_mismatch"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another request; use a new key for a new request.")


class CursorPastEndError(CallerError):
    """A stream is to go on behind its last event.

    Attributes:
        last: number of that event.
    """

    code = "cursor_past_end"

    def __init__(self, *, seq: int, last: int) -> None:
        super().__init__(f"There is nothing behind event {seq}: the stream's last event is {last}.")
        self.last = last


class ConversationBusyError(CallerError):
    """Another turn of the same conversation is running.

    Attributes:
        active: id of the running turn's response.
    """

    code = "conversation_busy"

    def __init__(self, active: str) -> None:
        super().__init__(f"The conversation is busy with {active}; wait for it to end, then send the turn again.")
        self.active = active


class RetryLaterError(ClusterError):
    """The same request may succeed later.

    Attributes:
        retry_after_s: seconds after which a retry is sensible.
    """

    code = "retry_later"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(RetryLaterError):
    """The queue is full, or the wait in it would be too long.

    Attributes:
        refused_by: incarnation that said so, where one did; another may have room.
    """

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float, refused_by: str = "") -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.refused_by = refused_by


class QueueFullError(RetryLaterError):
    """The tenant has as many turns in a queue as it may.

    Attributes:
        queue: the class of turns.
        max_queued: how many that is.
    """

    code = "queue_full"

    def __init__(self, *, queue: str, max_queued: int, retry_after_s: float) -> None:
        super().__init__(
            f"No more than {max_queued} {queue} turns of this tenant may be in the queue; "
            "send more when some of them have ended.",
            retry_after_s=retry_after_s,
        )
        self.queue = queue
        self.max_queued = max_queued


class NoReplicaError(RetryLaterError):
    """No replica is alive, or none accepted the turn within its deadline."""

    code = "no_replica"


class StoreUnavailableError(RetryLaterError):
    """The conversation store does not answer."""

    code = "history_unavailable"


class TurnError(ClusterError):
    """A turn that had begun could not be finished."""

    code = "turn_failed"


class GenerationFailedError(TurnError):
    """The engine could not go on with this sequence."""

    code = "generation_failed"


class TurnMovedError(TurnError):
    """Another process goes on with the turn.

    Attributes:
        turn: its id.
    """

    code = "turn_moved"

    def __init__(self, turn: str) -> None:
        super().__init__(f"Another process goes on with {turn}; retrieve it.")
        self.turn = turn


class TurnLostError(TurnError):
    """The turn's record is gone."""

    code = "turn_lost"


class PromptMismatchError(TurnError):
    """The turn's prompt cannot be made again as it was."""

    code = "prompt_mismatch"


class ModelReplacedError(TurnError):
    """The turn was begun on another model, or by another release, than there is now."""

    code = "model_replaced"


class StreamDivergedError(TurnError):
    """The answer was computed again, and differs from what its reader has. The whole answer can be retrieved."""

    code = "stream_diverged"


class DeadlineExceededError(TurnError):
    """The turn's own deadline passed before it ended."""

    code = "deadline_exceeded"


class ToolCallError(ClusterError):
    """What the model wrote as a tool call cannot be read as one. Nobody can act on it: the text is the answer then.

    Attributes:
        text: all that the model wrote. It is an answer, hence no part of the message, which may be logged.
    """

    code = "invalid_tool_call"

    def __init__(self, message: str, *, text: str) -> None:
        super().__init__(message)
        self.text = text


class ChannelError(ClusterError):
    """The token channel between a replica and a turn's owner broke or could not be opened."""

    code = "channel_unreachable"


class CheckpointError(ClusterError):
    """A checkpoint folder cannot be served. The message names the file and, where there is one, the tensor."""

    code = "invalid_checkpoint"


class ConfigurationError(ClusterError):
    """A setting is wrong. The message names it and says what is allowed."""

    code = "invalid_configuration"
