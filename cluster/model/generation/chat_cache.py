"""The cache that ``stream_chat`` yields: keys and values that know which ids and which history they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from cluster.errors import InvalidRequestError
from cluster.tokenizer.responses import Item


class ChatCache(DynamicCache):  # type: ignore[misc]  # untyped library
    """A ``DynamicCache`` of one conversation; ``generate`` takes it as any other.

    Args:
        layers: keys and values [1, G, L, D] of every layer.
        ids: what the cache holds begins with the first ids of this list; it may grow, what is in it stays.
        history: the messages that these ids are.
        prefix: rows in front that are no tokens (prefix tuning).
    """

    def __init__(
        self, layers: list[tuple[Tensor, Tensor]], ids: list[int], history: Sequence[Item], prefix: int = 0
    ) -> None:
        super().__init__()
        _hold(self, layers)
        self._ids = ids
        self._history = list(history)
        self._prefix = prefix
        self._held = self.get_seq_length() - prefix

    @property
    def token_ids(self) -> list[int]:
        """The ids whose keys and values are held.

        Raises:
            InvalidRequestError: somebody has cut or extended the cache since.
        """
        if self.get_seq_length() - self._prefix != self._held:
            raise InvalidRequestError(
                "past_key_values was changed since stream_chat yielded it; pass it as it came.", param="past_key_values"
            )
        return self._ids[: self._held]

    def messages_after(self, history: Sequence[Item]) -> list[Item]:
        """The items of ``history`` that the cache does not hold yet.

        Raises:
            InvalidRequestError: the history does not begin with the messages that the cache holds.
        """
        known = len(self._history)
        if list(history[:known]) != self._history:
            raise InvalidRequestError(
                f"past_key_values stands for {known} messages that history does not begin with; pass the history that "
                "was yielded together with it, or neither.",
                param="past_key_values",
            )
        return list(history[known:])


def shared_cache(layers: list[tuple[Tensor, Tensor]]) -> DynamicCache:
    """A ``DynamicCache`` over keys and values [B, G, L, D] of every layer; it shares them until it grows."""
    made = DynamicCache()
    _hold(made, layers)
    return made


def chat_cache(cache: Any) -> ChatCache | None:
    """The cache of a canonical turn; None for none, or for an empty one.

    Raises:
        InvalidRequestError: it holds something, but nothing says which messages.
    """
    if cache is None or isinstance(cache, ChatCache):
        return cache
    if isinstance(cache, DynamicCache) and not cache.get_seq_length():
        return None
    raise InvalidRequestError(
        "past_key_values must be a cache that stream_chat yielded, as only such a one says which messages it holds; "
        "legacy_cache=True takes any DynamicCache on trust.",
        param="past_key_values",
    )


def _hold(cache: DynamicCache, layers: list[tuple[Tensor, Tensor]]) -> None:
    for layer, (keys, values) in enumerate(layers):
        cache.update(keys[:, :, :0], values[:, :, :0], layer)  # makes the layer; an update would copy
        cache.layers[layer].keys, cache.layers[layer].values = keys, values
