"""The model that transformers sees: published parameter names, ``forward``, and what a decode loop needs of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from cluster.errors import ContextLengthExceededError, InvalidRequestError
from cluster.model.attention import Attention
from cluster.model.chatglm import Transformer
from cluster.model.config import ChatGLM3Config
from cluster.model.generation.attention import CacheAttention, visible
from cluster.model.generation.beams import PublishedBeams
from cluster.model.generation.chat_cache import shared_cache
from cluster.model.generation.config import CACHE, ChatGLMConfig, generation_config
from cluster.model.generation.fitting import check_ids, check_past, require_known
from cluster.model.generation.packable import make_packable, pack
from cluster.model.rotary import rotary_table


class ChatGLM3Base(PublishedBeams, PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # untyped library
    """The serving blocks as a transformers model. Born without weights; ``from_pretrained`` brings them.

    Attributes:
        shape: the checked configuration.
        prefix_rows: rows of the cache that are no tokens (prefix tuning).
    """

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    _supports_sdpa = True

    def __init__(self, config: ChatGLMConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(config)
        self.shape: ChatGLM3Config = config.shape()
        with torch.device("meta"):
            self.transformer = Transformer(self.shape, dtype)
            make_packable(self.transformer)
            self.post_init()
        self.prefix_rows = self.shape.pre_seq_len
        self._tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self.generation_config = generation_config()

    @property
    def device(self) -> torch.device:
        """Where the word embedding computes, hence where ids go."""
        return _home(self.transformer.embedding.word_embeddings)

    @property
    def dtype(self) -> torch.dtype:
        """Of activations, hence of the word embedding."""
        found: torch.dtype = self.transformer.embedding.word_embeddings.weight.dtype
        return found

    def pack_weights(self) -> None:
        """Make the weights ready for decoding, see ``packable``; whoever reads them undoes it."""
        pack(self.transformer)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,  # noqa: FBT001  # transformers' signature
        output_hidden_states: bool | None = None,  # noqa: FBT001  # see above
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,  # noqa: FBT001  # see above
        **_: Any,
    ) -> Any:
        """Logits of a batch.

        Args:
            input_ids: int64 [B, T].
            attention_mask: [B, past + T], 0 over padding on the left; None without padding.
            position_ids: int64 [B, T] or [1, T], rows of the rotary table. Absent: counted on from the past, padding
                aside (the published code began at 0 whatever the past).
            past_key_values: a transformers ``Cache``, extended in place.
            cache: the same under its later name.
            labels: int64 [B, T]; -100 is not counted. Gives ``loss``, the mean of predicting each next id.
            use_cache: False returns no cache.
            output_hidden_states: also every layer's input and the last one's output, [B, T, H], before the final norm.
            logits_to_keep: how many last positions to compute logits for (an int, 0 is all), or which (a tensor).
            return_dict: False gives a tuple.

        Returns:
            ``CausalLMOutputWithPast``; logits are [B, T or fewer, V] in the model's dtype.

        Raises:
            ContextLengthExceededError: a position is beyond the model's context.
            InvalidRequestError: mask or positions do not fit ids and past, or ids or past are another model's.
        """
        check_ids(input_ids)
        past = past_key_values if cache is None else cache
        check_past(past, len(input_ids), self.shape, self.dtype)
        held = self.open_cache(None, len(input_ids)) if past is None else past
        self.fill_prefix(held, len(input_ids))
        start = self.tokens_in(held)
        positions = self._positions(input_ids, attention_mask, position_ids, start)
        states: list[Tensor] | None = [] if output_hidden_states else None
        hidden = self.run_rows(input_ids, positions, attention_mask, held, states)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep  # -0 is all
        logits = self.compute_logits(hidden[:, kept])
        made = CausalLMOutputWithPast(
            loss=None if labels is None else _loss(logits, labels),
            logits=logits,
            hidden_states=None if states is None else tuple(states),
            **{CACHE: None if use_cache is False else held},
        )
        return made.to_tuple() if return_dict is False else made

    def run_rows(
        self,
        ids: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None,
        cache: Any,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the blocks over B rows of T tokens: hidden [B, T, H] before the final norm; extends ``cache``.

        ``states`` gets every layer's input, and the last one's output.

        Raises:
            InvalidRequestError: ids, mask or cache are not of this model and batch.
        """
        rows, tokens = ids.shape
        require_known(ids, self.shape)
        if cache.is_compileable:  # its empty rows would be attended to
            raise InvalidRequestError("Static caches are not supported; use a DynamicCache.", param="past_key_values")
        mask = visible(attention_mask, rows, tokens, cache.get_seq_length() + tokens, self.prefix_rows)
        attention = CacheAttention(cache, rows, mask)
        watch = None if states is None else lambda x: states.append(x.view(rows, tokens, -1))
        hidden = self.run_blocks(ids.reshape(-1), positions.expand(rows, tokens).reshape(-1), attention, watch)
        return hidden.view(rows, tokens, -1)

    def run_blocks(
        self, ids: Tensor, positions: Tensor, attention: Attention, watch: Callable[[Tensor], None] | None = None
    ) -> Tensor:
        """Run the blocks over flat tokens, int64 [N] -> [N, H]; submodules are called, so that offloading works."""
        x = self.transformer.embedding.word_embeddings(ids)
        turns = self._table(x).index_select(0, positions.to(x.device)).unsqueeze(1)
        for layer, block in enumerate(self.transformer.encoder.layers):
            if watch is not None:
                watch(x)
            x = block(layer, x, turns, attention)
        if watch is not None:
            watch(x)
        hidden: Tensor = x
        return hidden

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Final norm and output layer: [..., H] -> [..., V]."""
        scores: Tensor = self.transformer.output_layer(self.transformer.encoder.final_layernorm(hidden))
        return scores

    def open_cache(self, past: Any, rows: int) -> Any:
        """A cache to extend for ``rows`` rows: one with the prefix alone, or one that shares ``past``'s memory.

        ``past`` has passed ``check_past``.
        """
        is_empty = past is None or not past.get_seq_length()
        made = shared_cache([] if is_empty else [(held.keys, held.values) for held in past.layers])
        self.fill_prefix(made, rows)
        return made

    def fill_prefix(self, cache: Any, rows: int) -> None:
        """Put the prefix's keys and values for ``rows`` rows into a cache that is empty; others have them."""
        if not self.prefix_rows or cache.get_seq_length():
            return
        for layer, (keys, values) in enumerate(self._prefix()):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)

    def tokens_in(self, cache: Any) -> int:
        """Tokens whose keys and values a cache holds, the prefix aside.

        Raises:
            InvalidRequestError: it lacks the prefix, so it is another model's.
        """
        length = 0 if cache is None else int(cache.get_seq_length())
        if 0 < length < self.prefix_rows:
            raise InvalidRequestError(
                f"past_key_values holds {length} rows, fewer than the {self.prefix_rows} of this model's prefix.",
                param="past_key_values",
            )
        return max(length - self.prefix_rows, 0)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """See transformers, which counts the rows of a cache as tokens when it goes on from one."""
        cache = kwargs.get(CACHE)
        goes_on = kwargs.get("is_first_iteration") and cache is not None and cache.get_seq_length() > 0
        if next_sequence_length is not None and goes_on:
            next_sequence_length += self.prefix_rows
        made: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, next_sequence_length, **kwargs)
        return made

    def get_input_embeddings(self) -> nn.Module:
        """The word embedding."""
        found: nn.Module = self.transformer.embedding.word_embeddings
        return found

    def get_output_embeddings(self) -> nn.Module:
        """The output layer; not tied to the embedding."""
        found: nn.Module = self.transformer.output_layer
        return found

    def _prefix(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [1, G, p, D] of every layer, where the layer computes."""
        encoder, layers = self.transformer.prefix_encoder, self.transformer.encoder.layers
        rows = encoder(self.dtype).permute(0, 2, 3, 1, 4).unsqueeze(2)  # [L, 2, 1, G, p, D]
        return [
            (held[0], held[1])
            for held in (part.to(_home(block.input_layernorm)) for part, block in zip(rows, layers, strict=True))
        ]

    def _init_weights(self, module: nn.Module) -> None:
        """Weights come from a checkpoint."""

    def _positions(self, ids: Tensor, mask: Tensor | None, given: Tensor | None, start: int) -> Tensor:
        tokens = ids.shape[1]
        if given is not None:
            positions = given
            if positions.shape[-1] != tokens:
                raise InvalidRequestError(
                    f"position_ids has {positions.shape[-1]} columns for {tokens} tokens.", param="position_ids"
                )
        elif mask is not None and mask.dim() == 2:
            positions = (mask.long().cumsum(-1) - 1).clamp_(min=0)[:, -tokens:]
        else:
            positions = torch.arange(start, start + tokens, device=ids.device)[None]
        if (last := int(positions.max())) >= self.shape.seq_length:
            raise ContextLengthExceededError(prompt_tokens=last + 1, max_tokens=0, context_length=self.shape.seq_length)
        return positions

    def _table(self, like: Tensor) -> Tensor:
        key = (like.dtype, like.device)
        if key not in self._tables:
            shape = self.shape
            self._tables[key] = rotary_table(shape.seq_length, shape.kv_channels, shape.rope_ratio, *key)
        return self._tables[key]


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.shape != logits.shape[:2]:
        raise InvalidRequestError("labels need one id per position, and logits of all of them.", param="labels")
    return nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())


def _home(module: Any) -> torch.device:
    """Where a module computes, which for an offloaded weight is not where it is."""
    hook = getattr(module, "_hf_hook", None)
    return torch.device(module.weight.device if hook is None else hook.execution_device)
