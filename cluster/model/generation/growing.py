"""Keys and values of a decode loop in memory that is made once and doubled when full.

A transformers cache copies everything at every token. Here a token is written behind the others, and what was handed
out before stays valid: rows that exist never change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cluster.model.attention import attend_last

_ROOM = 256  # tokens beyond what is there, at the least


class GrowingCache:
    """The ``Attention`` of a decode loop over B rows, one token each and step.

    Attributes:
        length: tokens held, padding and prefix included.
    """

    def __init__(self, rows: int, mask: Tensor | None) -> None:
        self.length = 0
        self._rows = rows
        self._layers: list[Tensor] = []  # [2, B, G, capacity, D]
        self._mask = mask  # additive [B, 1, 1, length], grown with the cache; None without padding

    def take(self, cache: Any) -> None:
        """Hold a copy of what a transformers cache holds."""
        self.length = cache.get_seq_length()
        for held in cache.layers:
            keys = held.keys
            buffer = keys.new_empty(2, *keys.shape[:2], self.length + _ROOM, keys.shape[3])
            buffer[0, :, :, : self.length] = keys
            buffer[1, :, :, : self.length] = held.values
            self._layers.append(buffer)

    def layers(self, length: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, G, length, D] of every layer, without a copy."""
        return [(buffer[0, :, :, :length], buffer[1, :, :, :length]) for buffer in self._layers]

    def make_room(self) -> None:
        """See that one more token fits in every layer."""
        if self.length < self._layers[0].shape[3]:
            return
        for layer, buffer in enumerate(self._layers):
            self._layers[layer] = nn.functional.pad(buffer, (0, 0, 0, max(buffer.shape[3], _ROOM)))

    def advance(self) -> None:
        """Count the token that was just stored."""
        self.length += 1
        if self._mask is not None:
            self._mask = nn.functional.pad(self._mask, (0, 1))

    def forward(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """See ``Attention.forward``; one token per row, at place ``length``."""
        buffer, end = self._layers[layer], self.length + 1
        buffer[:, :, :, self.length] = key_value.transpose(0, 1)
        held = buffer[:, :, :, :end].transpose(2, 3)  # [2, B, length + 1, G, D]
        mask = None if self._mask is None else self._mask.to(query)
        return attend_last(query, held[0], held[1], mask)


def padding_mask(attention_mask: Tensor | None, prefix: int) -> Tensor | None:
    """Additive [B, 1, 1, L + 1] that hides padded columns from the next token; None without padding."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    hidden = torch.zeros(attention_mask.shape, dtype=torch.float32, device=attention_mask.device)
    hidden.masked_fill_(attention_mask == 0, float("-inf"))
    return nn.functional.pad(hidden, (prefix, 1))[:, None, None]
