"""What the decode loop understands of transformers' generation arguments, as processors in transformers' order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import transformers as hf
from torch import Tensor

from cluster.errors import InvalidRequestError
from cluster.model.generation.pick import Sampling

TOP_K: Final = 50  # a default of transformers that the published methods never mention


@dataclass(frozen=True, slots=True)
class _Prompt:
    tokens: int  # that processors see in front of the answer
    stop: Tensor  # int64 [number of stop ids]


# name -> (value that means off, processor of a value); the order is the one in which they are applied.
_PROCESSORS: Final[dict[str, tuple[Any, Callable[[Any, _Prompt], Any]]]] = {
    "sequence_bias": (None, lambda value, _: hf.SequenceBiasLogitsProcessor(value)),
    "repetition_penalty": (1.0, lambda value, _: hf.RepetitionPenaltyLogitsProcessor(float(value))),
    "no_repeat_ngram_size": (0, lambda value, _: hf.NoRepeatNGramLogitsProcessor(value)),
    "bad_words_ids": (None, lambda value, prompt: hf.NoBadWordsLogitsProcessor(value, prompt.stop)),
    "min_length": (0, lambda value, prompt: hf.MinLengthLogitsProcessor(value, prompt.stop, prompt.stop.device)),
    "min_new_tokens": (
        0,
        lambda value, prompt: hf.MinNewTokensLengthLogitsProcessor(
            prompt.tokens, value, prompt.stop, prompt.stop.device
        ),
    ),
    "prefix_allowed_tokens_fn": (None, lambda value, _: hf.PrefixConstrainedLogitsProcessor(value, 1)),
    "remove_invalid_values": (False, lambda _value, _: hf.InfNanRemoveLogitsProcessor()),
    "exponential_decay_length_penalty": (
        None,
        lambda value, prompt: hf.ExponentialDecayLengthPenalty(value, prompt.stop, prompt.tokens),
    ),
    "suppress_tokens": (None, lambda value, prompt: hf.SuppressTokensLogitsProcessor(value, prompt.stop.device)),
    "begin_suppress_tokens": (
        None,
        lambda value, prompt: hf.SuppressTokensAtBeginLogitsProcessor(value, prompt.tokens, prompt.stop.device),
    ),
}
_WARPERS: Final[dict[str, tuple[Any, Callable[[Any], Any]]]] = {
    "min_p": (None, hf.MinPLogitsWarper),
    "typical_p": (1.0, hf.TypicalLogitsWarper),
    "epsilon_cutoff": (0.0, hf.EpsilonLogitsWarper),
    "eta_cutoff": (0.0, hf.EtaLogitsWarper),
    "renormalize_logits": (False, lambda _value: hf.LogitNormalization()),
}
_OTHERS: Final = (
    *("max_length", "max_new_tokens", "max_time", "stopping_criteria", "eos_token_id", "pad_token_id"),
    *("do_sample", "temperature", "top_k", "top_p", "num_beams", "num_return_sequences", "use_cache"),
)
_NO_OPTIONS: Final = {"transformers_version", "bos_token_id"}  # of no use here
KNOWN: Final = frozenset((*_PROCESSORS, *_WARPERS, *_OTHERS))


@dataclass(frozen=True, slots=True)
class Options:
    """One decode loop's settings.

    Attributes:
        stop_ids: ids that end a row; they are part of what is generated.
        pad_id: what a row holds behind its end.
        processors: functions of (ids [B, n], scores [B, V]), in order.
        sampling: how to draw; None takes the best.
        criteria: transformers' stopping criteria.
    """

    stop_ids: tuple[int, ...]
    pad_id: int
    processors: list[Any]
    sampling: Sampling | None
    criteria: list[Any] = field(default_factory=list)


def read_options(given: Mapping[str, Any], processors: list[Any], *, prompt: int, device: torch.device) -> Options:
    """Check arguments and build what they ask for.

    Args:
        given: by name; ``None`` is as good as absent.
        processors: the caller's own, which follow the built-in ones.
        prompt: tokens in front of the answer.
        device: where scores will be.

    Raises:
        InvalidRequestError: the loop does not know an argument, or cannot do what it asks.
    """
    check_known(given)
    stop_ids = ids_of(given.get("eos_token_id"))
    about = _Prompt(prompt, torch.tensor(stop_ids, dtype=torch.int64, device=device))
    built = _made(given, _PROCESSORS, about)
    criteria = listed(given.get("stopping_criteria"), "stopping_criteria")
    if given.get("max_time") is not None:
        criteria.append(hf.MaxTimeCriteria(given["max_time"]))
    pad = given.get("pad_token_id")
    return Options(stop_ids, 0 if pad is None else pad, [*built, *processors], _sampling(given), criteria)


def of_config(config: Any) -> dict[str, Any]:
    """What a transformers ``GenerationConfig`` says, by name.

    Saved ones often name every option there is; one that the loop does not know counts where it is neither off nor 1.
    """
    held = {name: value for name, value in config.to_diff_dict().items() if value is not None}
    return {name: value for name, value in held.items() if name in KNOWN or _says_something(name, value)}


def _says_something(name: str, value: Any) -> bool:
    return name not in _NO_OPTIONS and value not in (0, 1, [], "")


def listed(given: Any, name: str) -> list[Any]:
    """The functions of an argument that is a list of them, or None.

    Raises:
        InvalidRequestError: it is no list.
    """
    if not isinstance(given, list | tuple | None):
        raise InvalidRequestError(f"{name} is a list of functions, not {type(given).__name__}.", param=name)
    return list(given or [])


def is_known(given: Mapping[str, Any]) -> bool:
    """Whether the decode loop can do what is asked."""
    return not _unknown(given) and not _plural(given)


def check_known(given: Mapping[str, Any]) -> None:
    """Raises InvalidRequestError naming an argument that a stream cannot have."""
    for name in _unknown(given):
        raise InvalidRequestError(f"{name!r} is not an argument of a stream; see generate().", param=name)
    for name in _plural(given):
        raise InvalidRequestError(f"A stream has one answer; use chat() or generate() for {name}.", param=name)


def _unknown(given: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, value in given.items() if value is not None and name not in KNOWN)


def _plural(given: Mapping[str, Any]) -> list[str]:
    return [name for name in ("num_beams", "num_return_sequences") if given.get(name) not in {None, 1}]


def _made(given: Mapping[str, Any], makers: Mapping[str, tuple[Any, Callable[..., Any]]], *more: Any) -> list[Any]:
    """The processors that are asked for, in the makers' order; ``more`` is what makers take behind the value."""
    made = []
    for name, (off, make) in makers.items():
        if not _is_on(value := given.get(name), off):
            continue
        try:
            made.append(make(value, *more))
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(f"{name} is {value!r}, which cannot be: {error}", param=name) from error
    return made


def _sampling(given: Mapping[str, Any]) -> Sampling | None:
    if not given.get("do_sample"):
        return None
    warpers = _made(given, _WARPERS)
    top_k = given.get("top_k")
    return Sampling(
        temperature=float(given.get("temperature") or 1.0) if given.get("temperature") != 0 else 0.0,
        top_k=TOP_K if top_k is None else top_k,
        top_p=1.0 if given.get("top_p") is None else float(given["top_p"]),
        warpers=tuple(warpers),
    )


def _is_on(value: Any, off: Any) -> bool:
    return value is not None and value != off


def ids_of(value: Any) -> tuple[int, ...]:
    """One id, several, or none, as an argument may have them."""
    if value is None:
        return ()
    held = value.tolist() if isinstance(value, Tensor) else value
    return (held,) if isinstance(held, int) else tuple(held)
