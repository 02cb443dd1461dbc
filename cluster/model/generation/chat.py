"""``chat``, ``stream_chat``, ``stream_generate`` and ``process_response`` with the published signatures.

By default what a user could only lose by is mended; ``legacy=True`` (in ``stream_chat`` also ``legacy_cache=True``)
gives the published behaviour, yield by yield. docs/interface.md has the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from cluster.errors import InvalidRequestError
from cluster.model.generation.answer_stream import AnswerStream
from cluster.model.generation.base import ChatGLM3Base
from cluster.model.generation.chat_cache import shared_cache
from cluster.model.generation.decoding import Decoding
from cluster.model.generation.fitting import check_ids, check_past
from cluster.model.generation.guard import InvalidScoreGuard, RaisingGuard, RowGuard
from cluster.model.generation.limits import check_tokenizer, total_limit
from cluster.model.generation.options import Options, ids_of, is_known, listed, of_config, read_options
from cluster.model.generation.turn import Answer, Turn, check_query, open_published_turn, open_turn, tell_caller
from cluster.tokenizer.responses import Content, Item, process_response
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer


class Chatting(ChatGLM3Base):
    """The methods that make a chat of a model."""

    def chat(
        self,
        tokenizer: ChatGLM3Tokenizer,
        query: str,
        history: list[Item] | None = None,
        role: str = "user",
        max_length: int = 8192,
        num_beams: int = 1,
        do_sample: bool = True,  # noqa: FBT001, FBT002  # the published signature
        top_p: float = 0.8,
        temperature: float = 0.8,
        logits_processor: Any = None,
        *,
        legacy: bool = False,
        **kwargs: Any,
    ) -> tuple[Content, list[Item]]:
        """Answer one message.

        Args:
            tokenizer: of the same checkpoint.
            query: the new message.
            history: the messages before it, ``{role, content[, metadata][, tools]}``; left as it is.
            role: whose message ``query`` is: "user", or "observation" for a tool's result.
            max_length: tokens of prompt and answer together; the default reaches as far as the model does.
            num_beams: over 1 searches with that many beams.
            do_sample: draw; False takes the best token.
            top_p: the share of probability to draw from.
            temperature: scores are divided by it before drawing.
            logits_processor: functions of (ids, scores), applied after the built-in ones; left as it is.
            legacy: answer as the published code does, its defects included.
            kwargs: further arguments of ``generate`` (``max_new_tokens``, ``top_k``, ``repetition_penalty`` …).

        Returns:
            The answer, a text or a dict for a turn with a name (see ``process_response``), and a new history.

        Raises:
            ContextLengthExceededError: prompt and requested answer do not fit the model's context.
            GenerationFailedError: the logits are not finite.
            InvalidRequestError: an argument is wrong; names it.
            ToolCallError: the model named a tool and did not call it properly; keeps the text.
        """
        named: dict[str, Any] = {"max_length": max_length, "num_beams": num_beams, "do_sample": do_sample}
        named |= {"top_p": top_p, "temperature": temperature}
        self._check(tokenizer, query)
        turn = (open_published_turn if legacy else open_turn)(tokenizer, query, history, role)
        asked = _asked(tokenizer, named, kwargs)
        given = of_config(kwargs.get("generation_config") or self.generation_config) | asked
        limit = self._limit(len(turn.ids), given)
        _check_room(len(turn.ids), limit)
        processors = [*listed(logits_processor, "logits_processor"), InvalidScoreGuard() if legacy else RaisingGuard()]
        generated = self._answer_ids(turn, given, asked, processors, limit)
        if legacy:
            tell_caller(history, turn)
        answer = Answer(tokenizer, turn.history, is_published=legacy)
        for token_id in generated[:-1] if legacy else _without_stop(generated, given["eos_token_id"]):
            answer.push(token_id)
        answer.flush()
        content, items = answer.read()
        return content, [*turn.history, *items]

    def stream_chat(
        self,
        tokenizer: ChatGLM3Tokenizer,
        query: str,
        history: list[Item] | None = None,
        role: str = "user",
        past_key_values: Any = None,
        max_length: int = 8192,
        do_sample: bool = True,  # noqa: FBT001, FBT002  # the published signature
        top_p: float = 0.8,
        temperature: float = 0.8,
        logits_processor: Any = None,
        return_past_key_values: bool = False,  # noqa: FBT001, FBT002  # see above
        *,
        legacy_cache: bool = False,
        legacy: bool = False,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Answer one message, piece by piece.

        Args:
            tokenizer: see ``chat``.
            query: see ``chat``.
            history: see ``chat``; with ``past_key_values``, the history that was yielded together with it, to which
                messages may have been added.
            role: see ``chat``.
            past_key_values: a cache that ``stream_chat`` yielded. The conversation goes on with exactly the tokens it
                holds; only newer messages are computed.
            max_length: see ``chat``; counts the whole conversation.
            do_sample: see ``chat``.
            top_p: see ``chat``.
            temperature: see ``chat``.
            logits_processor: see ``chat``.
            return_past_key_values: also yield the cache.
            legacy_cache: stream as the published code does, yield by yield: with a cache the history is not looked
                at and ``[gMASK] sop`` comes again, any cache is taken on trust, the last token is withheld.
            legacy: the same.
            kwargs: further arguments, see ``stream_generate``.

        Yields:
            ``(response, history)`` or ``(response, history, past_key_values)``. Each response is the whole answer so
            far; each history is new, and each cache holds exactly the tokens of its response. An unfinished call of a
            tool is ``{"name", "content"}``, a finished one ``{"name", "parameters"}``.

        Raises:
            ContextLengthExceededError: see ``chat``.
            GenerationFailedError: see ``chat``.
            InvalidRequestError: see ``chat``; also when the cache does not stand for the history.
            ToolCallError: see ``chat``; at the end, after everything was yielded.
        """
        is_published = legacy or legacy_cache
        self._check(tokenizer, query)
        named: dict[str, Any] = {"max_length": max_length, "do_sample": do_sample}
        named |= {"top_p": top_p, "temperature": temperature}
        opened = open_published_turn if is_published else open_turn
        turn = opened(tokenizer, query, history, role, past_key_values)
        if is_published:
            tell_caller(history, turn)
        config = kwargs.pop("generation_config", None) or self.generation_config
        given = of_config(config) | _asked(tokenizer, named, kwargs)
        guard = InvalidScoreGuard() if is_published else RaisingGuard()
        processors = [*listed(logits_processor, "logits_processor"), guard]
        decoding, options, limit = self._decoding(turn, given, processors)
        answer = Answer(tokenizer, turn.history, is_published=is_published)
        stream = AnswerStream(turn, decoding, answer, has_cache=return_past_key_values, prefix=self.prefix_rows)
        yield from stream.run(options, limit, withholds_last=is_published)

    def stream_generate(
        self,
        input_ids: Tensor,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
        return_past_key_values: bool = False,  # noqa: FBT001, FBT002  # the published signature
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Generate token by token, without beams; rows that have ended go on with the pad id.

        Args:
            input_ids: int64 [B, T], padded on the left.
            generation_config: a transformers ``GenerationConfig`` whose values hold where ``kwargs`` have none.
            logits_processor: functions of (ids, scores), applied after the built-in ones.
            stopping_criteria: transformers' criteria, functions of (ids, scores).
            prefix_allowed_tokens_fn: (row, its ids) -> ids that may come next.
            return_past_key_values: also yield the cache.
            attention_mask: [B, past + T], 0 over padding.
            position_ids: int64 [B, T]; counted from mask and past where absent.
            past_key_values: a transformers cache of what stands before ``input_ids``; left as it is.
            kwargs: ``max_length``, ``max_new_tokens``, ``do_sample``, ``temperature``, ``top_k``, ``top_p``,
                ``eos_token_id``, ``repetition_penalty`` and others, named in docs/interface.md.

        Yields:
            Ids int64 [B, T + k] after the k-th token, or these and a ``DynamicCache`` of all but the last.

        Raises:
            ContextLengthExceededError: prompt and requested answer do not fit the model's context.
            InvalidRequestError: an argument is unknown or wrong; names it.
        """
        check_ids(input_ids)
        check_past(past_key_values, len(input_ids), self.shape, self.dtype)
        given = of_config(generation_config or self.generation_config) | kwargs
        given |= {"stopping_criteria": stopping_criteria, "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn}
        held = self.tokens_in(past_key_values)
        positions = self._positions(input_ids, attention_mask, position_ids, held).expand_as(input_ids)
        counted = held + input_ids.shape[1]
        ahead = max(int(positions.max()) + 1 - counted, 0)  # of the tokens, where a caller's positions are
        limit = self._limit(counted, given, ahead) - held
        processors = [*listed(logits_processor, "logits_processor"), RowGuard()]
        options = read_options(given, processors, prompt=input_ids.shape[1], device=input_ids.device)
        decoding = Decoding(
            self,
            input_ids,
            seen=input_ids,
            positions=positions,
            attention_mask=attention_mask,
            past=past_key_values,
        )
        for _ in decoding.run(options, limit):
            ids = decoding.seen
            cache = decoding.cache
            yield (ids, shared_cache(cache.layers(cache.length))) if return_past_key_values else ids

    def process_response(self, output: str, history: list[Item] | None) -> tuple[Content, list[Item]]:
        """Read a whole answer's text: see ``cluster.tokenizer.responses.process_response``."""
        return process_response(output, history)

    def _answer_ids(
        self, turn: Turn, given: dict[str, Any], asked: dict[str, Any], processors: list[Any], limit: int
    ) -> list[int]:
        """The generated ids of one row, the stop id included. ``given`` is ``asked`` and what else holds."""
        device = self.device
        if is_known(given):
            decoding, options, _ = self._decoding(turn, given, processors)
            return [int(tokens) for tokens in decoding.run(options, limit)]
        wanted = {name: value for name, value in asked.items() if name not in {"max_length", "max_new_tokens"}}
        if not wanted["do_sample"]:
            wanted = {name: value for name, value in wanted.items() if name not in {"top_p", "temperature"}}
        ids = torch.tensor([turn.fed], device=device)
        made = self.generate(
            inputs=ids,
            attention_mask=torch.ones_like(ids),
            logits_processor=processors,
            max_new_tokens=limit - len(turn.fed),
            **wanted,
        )
        sequences = made if isinstance(made, Tensor) else made.sequences
        row: list[int] = sequences[0, len(turn.fed) :].tolist()
        return row

    def _decoding(self, turn: Turn, given: dict[str, Any], processors: list[Any]) -> tuple[Decoding, Options, int]:
        held = self.tokens_in(turn.past)
        device = self.device
        known = turn.ids
        start = held + len(turn.fed)  # tokens in the cache once the prompt is computed
        unknown = start - len(known)  # of a published cached turn, which counts its own tokens only
        check_past(turn.past, 1, self.shape, self.dtype)
        if turn.held and unknown:
            raise InvalidRequestError(
                "past_key_values is a cache of a model with another prefix.", param="past_key_values"
            )
        limit = self._limit(len(known), given, unknown)
        options = read_options(given, processors, prompt=len(known), device=device)
        decoding = Decoding(
            self,
            torch.tensor([turn.fed], device=device),
            seen=torch.tensor([known], device=device),
            positions=torch.arange(held, start, device=device)[None],
            past=turn.past,
        )
        decoding.start = unknown + self.prefix_rows
        return decoding, options, limit

    def _limit(self, prompt: int, given: dict[str, Any], unknown: int = 0) -> int:
        """See ``total_limit``; ``unknown`` tokens stand before the counted ones and take room only."""
        context = self.shape.seq_length
        if unknown:
            total_limit(prompt + unknown, context, max_length=None, max_new_tokens=given.get("max_new_tokens"))
        total = total_limit(
            prompt, context, max_length=given.get("max_length"), max_new_tokens=given.get("max_new_tokens")
        )
        return min(total, context - unknown)

    def _check(self, tokenizer: ChatGLM3Tokenizer, query: object) -> None:
        check_tokenizer(tokenizer, self.shape)
        check_query(query)


def _asked(tokenizer: ChatGLM3Tokenizer, named: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name; further ones that are None are as good as absent."""
    stops = {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}
    return stops | named | {name: value for name, value in kwargs.items() if value is not None}


def _check_room(prompt: int, limit: int) -> None:
    if prompt >= limit:
        raise InvalidRequestError(
            f"The prompt has {prompt} tokens, and max_length {limit} counts them too; raise it, or pass "
            "max_new_tokens.",
            param="max_length",
        )


def _without_stop(ids: list[int], stop_ids: Any) -> list[int]:
    """The ids before the first stop id, which beams pad."""
    stops = set(ids_of(stop_ids))
    end = next((place for place, token_id in enumerate(ids) if token_id in stops), len(ids))
    return ids[:end]
