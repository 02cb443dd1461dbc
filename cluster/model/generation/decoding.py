"""The decode loop behind ``stream_chat``, ``stream_generate`` and ``chat``.

One pass over the prompt, then one token per row and step into memory that is already there. Everything a step needs is
decided before the first one; nothing is done that was not asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cluster.model.generation.growing import GrowingCache, padding_mask
from cluster.model.generation.options import Options
from cluster.model.generation.pick import sample

if TYPE_CHECKING:
    from cluster.model.generation.base import ChatGLM3Base


class Decoding:
    """One running generation.

    Args:
        model: whose blocks to run.
        ids: int64 [B, T], what has to be computed of the prompt.
        seen: int64 [B, n], all that processors are to see; ends with ``ids``.
        positions: int64 [B, T].
        attention_mask: [B, past + T], 0 over padding; None without padding.
        past: a transformers cache that holds what stands before ``ids``; it is left as it is.

    Attributes:
        cache: keys and values of the prompt and of every generated token but the last.
        start: rows of the cache that stand before ``seen``.
    """

    def __init__(
        self,
        model: ChatGLM3Base,
        ids: Tensor,
        *,
        seen: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None = None,
        past: Any = None,
    ) -> None:
        self.start = 0
        self._model = model
        self._prompt = ids
        self._past = past
        self._positions = positions
        self._attention_mask = attention_mask
        self._next_position = positions[:, -1] + 1
        self._seen = torch.nn.functional.pad(seen, (0, 256))
        self._width = seen.shape[1]
        self.cache = GrowingCache(len(ids), padding_mask(attention_mask, model.prefix_rows))

    @property
    def seen(self) -> Tensor:
        """Prompt and generated ids so far, int64 [B, n]; what is in it stays as it is."""
        return self._seen[:, : self._width]

    def run(self, options: Options, limit: int) -> Iterator[Tensor]:
        """The next ids int64 [B] until every row has ended, a criterion holds, or ``seen`` has ``limit`` columns.

        At least one token is drawn. A row that has ended goes on with the pad id.
        """
        logits = self._prefill()
        is_packed = False
        is_open = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        stop = torch.tensor(options.stop_ids, dtype=torch.int64, device=logits.device)
        while True:
            tokens, scores = self._pick(logits, options)
            tokens = torch.where(is_open, tokens, options.pad_id)
            self._append(tokens)
            yield tokens
            is_open &= ~torch.isin(tokens, stop)
            for criterion in options.criteria:
                is_open &= ~torch.as_tensor(criterion(self.seen, scores), device=is_open.device)
            if self._width >= limit or not bool(is_open.any()):
                return
            if not is_packed:  # not for an answer of one token
                self._model.pack_weights()
                is_packed = True
            logits = self.feed(tokens)

    @torch.inference_mode()
    def feed(self, tokens: Tensor) -> Tensor:
        """Compute one token per row, int64 [B]; its logits, float32 [B, V]."""
        self.cache.make_room()
        hidden = self._model.run_blocks(tokens, self._next_position, self.cache)
        self.cache.advance()
        self._next_position = self._next_position + 1
        return self._model.compute_logits(hidden).float().to(tokens.device)

    @torch.inference_mode()
    def _prefill(self) -> Tensor:
        cache = self._model.open_cache(self._past, len(self._prompt))
        hidden = self._model.run_rows(self._prompt, self._positions, self._attention_mask, cache)
        self.cache.take(cache)
        return self._model.compute_logits(hidden[:, -1]).float().to(self._prompt.device)

    @torch.inference_mode()
    def _pick(self, logits: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        for processor in options.processors:
            logits = processor(self.seen, logits)
        if options.sampling is None:
            return logits.argmax(-1), logits
        return sample(self.seen, logits, options.sampling), logits

    def _append(self, tokens: Tensor) -> None:
        if self._width == self._seen.shape[1]:
            self._seen = torch.nn.functional.pad(self._seen, (0, self._width))
        self._seen[:, self._width] = tokens
        self._width += 1
