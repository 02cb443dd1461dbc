"""A caller's options as sampling parameters: ChatGLM3's defaults filled in, words encoded, contradictions refused.

What needs the tokenizer or the room left in the context is checked here; plain ranges are checked where the request is
read. Several answers of one request differ in nothing but the seed that is made from the request's own.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from cluster.errors import InvalidRequestError
from cluster.protocol import SamplingParams
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.turns.events import GenerationOptions
from services.turns.recode import inner_ids

DEFAULTS = SamplingParams(max_new_tokens=1)  # ChatGLM3's own temperature, top-p and top-k
_SEED_BITS = 63
_NUMBERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
)


def sampling(options: GenerationOptions, max_new_tokens: int, tokenizer: ChatGLM3Tokenizer) -> SamplingParams:
    """The caller's choices, ChatGLM3's defaults where there are none, and a drawn seed where there is none.

    Args:
        options: what was asked for.
        max_new_tokens: what the answer may have.
        tokenizer: encodes bad words and knows the model's stop ids.

    Raises:
        InvalidRequestError: an id is none of the tokenizer's, or fields contradict each other.
    """
    _check(options, max_new_tokens, tokenizer.vocab_size)
    chosen: dict[str, Any] = {name: getattr(options, name) for name in _NUMBERS if getattr(options, name) is not None}
    own_stops = () if options.ignore_eos else tokenizer.stop_ids
    return SamplingParams(
        **chosen,
        logit_bias=dict(options.logit_bias),
        bad_words=tuple(dict.fromkeys(_spellings(tokenizer, options.bad_words))),
        min_new_tokens=options.min_tokens,
        seed=secrets.randbits(_SEED_BITS) if options.seed is None else options.seed % (1 << _SEED_BITS),
        max_new_tokens=max_new_tokens,
        stop_ids=tuple(dict.fromkeys((*own_stops, *options.stop_token_ids))),
        structure=options.structure,
    )


def choice_seed(seed: int, choice: int) -> int:
    """The seed of one of several answers, 63 bits: the request's own for choice 0, else a hash of it and the index."""
    if not choice:
        return seed
    digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=8, salt=choice.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") % (1 << _SEED_BITS)


def _spellings(tokenizer: ChatGLM3Tokenizer, words: Iterable[str]) -> Iterator[tuple[int, ...]]:
    """The ids of each word as it stands in the middle of a text: behind no blank, and behind the one that ``▁`` is."""
    for word in words:
        yield tuple(inner_ids(tokenizer, word))
        if not word[0].isspace():
            yield tuple(inner_ids(tokenizer, f" {word}"))


def _check(options: GenerationOptions, max_new_tokens: int, vocab_size: int) -> None:
    _check_ids("logit_bias", options.logit_bias, vocab_size)
    _check_ids("stop_token_ids", options.stop_token_ids, vocab_size)
    if options.min_tokens > max_new_tokens:
        message = f"min_tokens: At most {max_new_tokens} tokens are left for the answer, not {options.min_tokens}."
        raise InvalidRequestError(message, param="min_tokens")
    if options.structure is None:
        return
    for name in ("ignore_eos", "min_tokens"):
        if getattr(options, name):
            raise InvalidRequestError(f"{name}: An answer with a structure ends where that is whole.", param=name)


def _check_ids(param: str, ids: Iterable[int], vocab_size: int) -> None:
    wrong = next((token_id for token_id in ids if not 0 <= token_id < vocab_size), None)
    if wrong is not None:
        message = f"{param}: {wrong} is no token of this model; ids are 0 to {vocab_size - 1}."
        raise InvalidRequestError(message, param=param)
