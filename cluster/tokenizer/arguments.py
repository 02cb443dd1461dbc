"""What the tokenizer's arguments mean, in transformers' words; what would be left out in silence is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cluster.errors import InvalidRequestError

# Of transformers' arguments: what they ask for is there anyway, or says nothing about ids.
_HARMLESS: Final = ("return_attention_mask", "return_token_type_ids", "split_special_tokens", "verbose")


def pairs(firsts: list[Any], seconds: Any) -> list[tuple[Any, ...]]:
    """Each row's texts, one or two.

    Raises:
        InvalidRequestError: a row has more, or rows and partners differ in number.
    """
    if seconds is None:
        return [_pair(first) for first in firsts]
    others = list(seconds) if isinstance(seconds, (list, tuple)) else [seconds]
    if len(others) != len(firsts):
        raise InvalidRequestError(f"{len(firsts)} texts have {len(others)} partners.", param="text_pair")
    return list(zip(firsts, others, strict=True))


def _pair(given: Any) -> tuple[Any, ...]:
    if not isinstance(given, (list, tuple)):
        return (given,)
    if len(given) not in {1, 2}:
        raise InvalidRequestError(f"A pair is two texts, not {len(given)}.", param="text")
    return tuple(given)


def shorten(first: list[int], second: list[int], room: int) -> None:
    """Drop the last ids of whichever is longer, of the second where neither is, until both fit; in place."""
    for _ in range(len(first) + len(second) - max(room, 0)):
        (first if len(first) > len(second) else second).pop()


def row_limit(truncation: bool | str | None, max_length: int | None) -> int | None:  # noqa: FBT001  # transformers' values
    """Ids that a row may have; None for any number.

    Raises:
        InvalidRequestError: the way to cut is unknown, or ``max_length`` is missing.
    """
    if truncation not in {None, False, True, "longest_first", "do_not_truncate"}:
        raise InvalidRequestError(
            f"truncation is {truncation!r}; it can be True, which is 'longest_first', or False.", param="truncation"
        )
    return None if truncation in {None, False, "do_not_truncate"} else needed(max_length)


def refuse_unknown(given: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError naming an argument that would change the ids if it were known."""
    for name in sorted(name for name, value in given.items() if value and name not in _HARMLESS):
        raise InvalidRequestError(f"The tokenizer knows no argument {name!r}.", param=name)


def needed(max_length: int | None) -> int:
    """``max_length``, where something asks for it. Raises InvalidRequestError when it is none."""
    if max_length is None or max_length < 1:
        raise InvalidRequestError("max_length must say how many ids a row may have.", param="max_length")
    return max_length


def check_side(side: object) -> None:
    """Raise InvalidRequestError for padding on the right."""
    if side not in {None, "left"}:
        raise InvalidRequestError("ChatGLM3 pads on the left only.", param="padding_side")
