"""What ``stream_chat`` yields from the tokens of a decode loop: text so far, history, and the cache of just these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.model.generation.chat_cache import ChatCache
from cluster.model.generation.decoding import Decoding
from cluster.model.generation.options import Options
from cluster.model.generation.turn import Answer, Turn
from cluster.tokenizer.responses import copy_history


class AnswerStream:
    """One running answer. A token is shown when the next one is drawn, as its keys and values are in the cache then.

    Args:
        turn: what is answered.
        decoding: computes it.
        answer: takes the ids.
        has_cache: whether yields end with a cache.
        prefix: rows of the cache that are no tokens.
    """

    def __init__(self, turn: Turn, decoding: Decoding, answer: Answer, *, has_cache: bool, prefix: int) -> None:
        self._turn = turn
        self._decoding = decoding
        self._answer = answer
        self._has_cache = has_cache
        self._prefix = prefix
        self._ids = list(turn.ids)

    def run(self, options: Options, limit: int, *, withholds_last: bool) -> Iterator[tuple[Any, ...]]:
        """``(response, history)``, with the cache behind them if it is wanted, as often as there is text to show.

        ``withholds_last``: never show the last token, stop id or not, nor judge the answer as a whole.

        Raises:
            ToolCallError: see ``Answer.read``; after the last yield.
        """
        last = None
        for tokens in self._decoding.run(options, limit):
            if last is not None:
                yield from self._take(int(last))
            last = tokens
        if last is None or withholds_last:
            return
        if int(last) not in options.stop_ids:
            if self._has_cache:
                self._decoding.feed(last)
            yield from self._take(int(last))
        self._answer.read()

    def _take(self, token_id: int) -> Iterator[tuple[Any, ...]]:
        self._ids.append(token_id)
        self._answer.push(token_id)
        if self._answer.can_be_shown:
            yield self._shown()

    def _shown(self) -> tuple[Any, ...]:
        content, items = self._answer.read(is_partial=True)
        history = [*self._turn.history, *items]
        copied = copy_history(history)
        if not self._has_cache:
            return content, copied
        held = self._decoding.cache.layers(self._decoding.start + len(self._ids))
        return content, copied, ChatCache(held, self._ids, history, self._prefix)
