"""How long an answer may become, decided before the first token."""

from __future__ import annotations

from cluster.errors import ContextLengthExceededError, InvalidRequestError
from cluster.model.config import ChatGLM3Config
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

DEFAULT_MAX_LENGTH = 8192  # of chat and stream_chat; means "as far as the model's context goes"
_MAX_PADDING = 1024  # rows of an embedding beyond its tokenizer's ids; published: 226


def total_limit(prompt: int, context: int, *, max_length: int | None, max_new_tokens: int | None) -> int:
    """Tokens that prompt and answer may have together.

    ``max_new_tokens`` decides where it is given. ``max_length`` counts prompt and answer; its default of 8192, and
    None, mean the model's whole context where that is shorter.

    Raises:
        ContextLengthExceededError: the prompt, or prompt and requested answer, have positions the model has not.
        InvalidRequestError: a limit is not positive.
    """
    if prompt > context:
        raise ContextLengthExceededError(prompt_tokens=prompt, max_tokens=0, context_length=context)
    if max_new_tokens is not None:
        total = prompt + positive(max_new_tokens, "max_new_tokens")
    elif max_length is None or (max_length == DEFAULT_MAX_LENGTH and context < DEFAULT_MAX_LENGTH):
        total = context
    else:
        total = positive(max_length, "max_length")
    if total > context:
        raise ContextLengthExceededError(
            prompt_tokens=prompt, max_tokens=max(total - prompt, 0), context_length=context
        )
    return total


def check_tokenizer(tokenizer: object, config: ChatGLM3Config) -> None:
    """See that a tokenizer's ids are the model's rows.

    Raises:
        InvalidRequestError: it is none, has more ids than the model, or so few that it must be another model's.
    """
    if not isinstance(tokenizer, ChatGLM3Tokenizer):
        raise InvalidRequestError(
            f"tokenizer is {type(tokenizer).__name__}; it must be a cluster.tokenizer.ChatGLM3Tokenizer of the model's "
            "folder.",
            param="tokenizer",
        )
    rows, ids = config.padded_vocab_size, tokenizer.vocab_size
    if not 0 <= rows - ids < _MAX_PADDING:
        raise InvalidRequestError(
            f"The tokenizer has {ids} ids and the model {rows} rows; load both from the same checkpoint folder.",
            param="tokenizer",
        )


def positive(value: object, name: str) -> int:
    """``value``. Raises InvalidRequestError, which names it, when it is no whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequestError(f"{name} is {value}; it must be a whole number, at least 1.", param=name)
    return value
