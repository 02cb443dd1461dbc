"""ChatGLM3 as a module on the published parameter names, over flat tokens: [T, H], no batch axis and no padding.

Tokens of many sequences stand one after another; which keys a token sees is the attention object's business alone.
``forward`` ends before the final norm: ``logits`` applies it, so that only rows that need logits pay for it.

A tensor split gives each rank its own slice of heads and of the MLP's inner width: attention and MLP take those widths
as arguments, and the outputs of ``dense`` and ``dense_4h_to_h`` are the two places where ranks must be summed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cluster.model.attention import Attention
from cluster.model.config import ChatGLM3Config
from cluster.model.prefix import PrefixEncoder
from cluster.model.quantization import quantize_linears
from cluster.model.rotary import rotary_table, rotate_


class RMSNorm(nn.Module):
    """y = weight * x / sqrt(mean(x^2) + eps), computed in float32 and rounded to the input's dtype once."""

    def __init__(self, width: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype, device="meta"), requires_grad=False)
        self.shape = (width,)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return nn.functional.rms_norm(x, self.shape, self.weight, self.eps)


class SelfAttention(nn.Module):
    """Fused projection to queries, keys and values; rotation; attention; output projection."""

    def __init__(self, config: ChatGLM3Config, *, heads: int, groups: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = heads
        self.groups = groups
        self.dim = config.kv_channels
        query, hidden = heads * self.dim, config.hidden_size
        self.query_key_value = _linear(hidden, query + 2 * groups * self.dim, dtype, bias=config.add_qkv_bias)
        self.dense = _linear(query, hidden, dtype, bias=config.add_bias_linear)

    def forward(self, layer: int, x: Tensor, turns: Tensor, attention: Attention) -> Tensor:
        """[T, H] -> [T, H]. Queries and keys stand side by side in the projection, so one rotation serves both."""
        tokens, split = x.shape[0], self.heads + self.groups
        projected = self.query_key_value(x).view(tokens, split + self.groups, self.dim)
        rotate_(projected[:, :split], turns)
        key_value = projected[:, self.heads :].view(tokens, 2, self.groups, self.dim)
        context: Tensor = self.dense(attention.forward(layer, projected[:, : self.heads], key_value))
        return context


class MLP(nn.Module):
    """SwiGLU: the first half of ``dense_h_to_4h``'s output is the gate, the second what it gates."""

    def __init__(self, config: ChatGLM3Config, *, inner: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dense_h_to_4h = _linear(config.hidden_size, 2 * inner, dtype, bias=config.add_bias_linear)
        self.dense_4h_to_h = _linear(inner, config.hidden_size, dtype, bias=config.add_bias_linear)

    def forward(self, x: Tensor) -> Tensor:
        """[T, H] -> [T, H]."""
        gate, up = self.dense_h_to_4h(x).chunk(2, dim=-1)
        y: Tensor = self.dense_4h_to_h(nn.functional.silu(gate) * up)
        return y


class Block(nn.Module):
    """Pre-norm transformer block; residuals are taken before the norms."""

    def __init__(self, config: ChatGLM3Config, dtype: torch.dtype) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layernorm_epsilon
        self.input_layernorm = RMSNorm(width, eps, dtype)
        self.self_attention = SelfAttention(
            config, heads=config.num_attention_heads, groups=config.multi_query_group_num, dtype=dtype
        )
        self.post_attention_layernorm = RMSNorm(width, eps, dtype)
        self.mlp = MLP(config, inner=config.ffn_hidden_size, dtype=dtype)

    def forward(self, layer: int, x: Tensor, turns: Tensor, attention: Attention) -> Tensor:
        """[T, H] -> [T, H]."""
        x = x + self.self_attention(layer, self.input_layernorm(x), turns, attention)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y


class Embedding(nn.Module):
    """Holder of the published name ``embedding.word_embeddings``."""

    def __init__(self, config: ChatGLM3Config, dtype: torch.dtype) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(
            config.padded_vocab_size, config.hidden_size, dtype=dtype, device="meta"
        ).requires_grad_(requires_grad=False)


class Encoder(nn.Module):
    """The blocks and the final norm."""

    def __init__(self, config: ChatGLM3Config, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config, dtype) for _ in range(config.num_layers))
        self.final_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon, dtype)


class Transformer(nn.Module):
    """Holder of the published prefix ``transformer.``."""

    def __init__(self, config: ChatGLM3Config, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding = Embedding(config, dtype)
        self.encoder = Encoder(config, dtype)
        self.output_layer = _linear(config.hidden_size, config.padded_vocab_size, dtype, bias=False)
        if config.quantization_bit:
            quantize_linears(self.encoder, config.quantization_bit)
        if config.pre_seq_len:
            self.prefix_encoder = PrefixEncoder(config)


class ChatGLM3Model(nn.Module):
    """The whole model. Parameters are born without storage; ``cluster.model.loader`` gives them their values.

    Attributes:
        config: the shape.
        dtype: of weights and activations.
        device: where they live.
        rotary: the table of every position's turns, see ``rotary_table``.
    """

    def __init__(self, config: ChatGLM3Config, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.device = device
        self.transformer = Transformer(config, dtype)
        self.rotary = rotary_table(config.seq_length, config.kv_channels, config.rope_ratio, dtype, device)

    def forward(self, token_ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """Run the blocks.

        Args:
            token_ids: int32 or int64 [T].
            positions: int32 or int64 [T], each below ``config.seq_length``.
            attention: stores this pass's keys and values and answers the queries.

        Returns:
            [T, H], the last block's output, before the final norm.
        """
        x = nn.functional.embedding(token_ids, self.transformer.embedding.word_embeddings.weight)
        turns = self.rotary.index_select(0, positions).unsqueeze(1)
        for layer, block in enumerate(self.transformer.encoder.layers):
            x = block(layer, x, turns, attention)
        return x

    def prefix(self) -> Tensor | None:
        """Keys and values [L, p, 2, G, D] that stand before every sequence; None where there are none."""
        if not self.config.pre_seq_len:
            return None
        rows: Tensor = self.transformer.prefix_encoder(self.dtype)
        return rows

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and output layer: [S, H] -> [S, V] in the model's dtype."""
        scores: Tensor = self.transformer.output_layer(self.transformer.encoder.final_layernorm(hidden))
        return scores


def _linear(width: int, out: int, dtype: torch.dtype, *, bias: bool) -> nn.Linear:
    return nn.Linear(width, out, bias=bias, dtype=dtype, device="meta").requires_grad_(requires_grad=False)
