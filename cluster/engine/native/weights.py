"""Lays a model's weights out for the C step, one tensor at a time, and takes the plain ones away.

Columns of a product stand in blocks of 16 and groups of 64, see ``tile.h``; the MLP's gates and what they gate take
turns by 32, so that a group of the first product is 32 whole results. Padding is zeros, which change nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluster.engine import huge_pages
from cluster.engine.attention.kv_pool import KVPool
from cluster.engine.native import library
from cluster.model.chatglm import Block, ChatGLM3Model

GROUP = 64  # columns of one unit of work
HALF = GROUP // 2
LANES = 16
MAX_DIM = 256
MAX_QUERIES = 64


def fits(model: ChatGLM3Model) -> bool:
    """Whether the C step computes such a model: plain linears, heads of whole vectors, no tuned prefix."""
    config = model.config
    heads, dim = config.num_attention_heads // config.multi_query_group_num, config.kv_channels
    has_shape = config.hidden_size % LANES == 0 and dim % LANES == 0 and dim <= MAX_DIM and heads <= MAX_QUERIES
    is_plain = not config.pre_seq_len and all(type(one) is nn.Linear for one in _linears(model))
    return has_shape and config.ffn_hidden_size % 2 == 0 and is_plain


class Weights:
    """A model as the C step takes it; owns all memory that ``struct`` points to.

    Attributes:
        struct: for ``chatglm_step``.
        inner: width of the MLP, padded.
    """

    def __init__(self, model: ChatGLM3Model, pool: KVPool) -> None:
        """Pack ``model``, bfloat16 on the CPU, for which ``fits`` holds; its own linears are empty afterwards."""
        functions = library.load()
        assert functions is not None, "the runner was chosen without asking whether there is a library"
        self._pack = functions.chatglm_pack
        self._kept: list[Tensor] = []
        config, transformer = model.config, model.transformer
        self.inner = _padded(config.ffn_hidden_size, HALF)
        blocks = [self._layer(block, config.ffn_hidden_size) for block in _blocks(model)]
        self._layers = (library.Layer * len(blocks))(*blocks)
        self.struct = library.Model(
            num_layers=config.num_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            groups=config.multi_query_group_num,
            dim=config.kv_channels,
            inner=self.inner,
            vocab=config.padded_vocab_size,
            epsilon=config.layernorm_epsilon,
            embedding=self._keep(transformer.embedding.word_embeddings.weight.data),
            turns=self._keep(torch.view_as_real(model.rotary)),
            norm=self._keep(transformer.encoder.final_layernorm.weight.float()),
            output=self._plain(transformer.output_layer),
            layers=self._layers,
            pool=library.Pool(
                pages=self._keep(pool.pages),
                layers=config.num_layers,
                page_size=pool.page_size,
                groups=pool.groups,
                dim=pool.dim,
            ),
        )

    def _layer(self, block: Block, inner: int) -> library.Layer:
        attention, mlp = block.self_attention, block.mlp
        return library.Layer(
            input_norm=self._keep(block.input_layernorm.weight.float()),
            post_norm=self._keep(block.post_attention_layernorm.weight.float()),
            qkv=self._plain(attention.query_key_value),
            dense=self._plain(attention.dense),
            up=self._linear(mlp.dense_h_to_4h, _gated(inner), 2 * self.inner),
            down=self._plain(mlp.dense_4h_to_h, width=self.inner),
        )

    def _plain(self, linear: nn.Linear, *, width: int | None = None) -> library.Linear:
        return self._linear(linear, _in_order(linear.out_features), linear.out_features, width=width)

    def _linear(
        self, linear: nn.Linear, order: NDArray[np.int32], columns: int, *, width: int | None = None
    ) -> library.Linear:
        """Pack the columns in ``order`` (-1: zeros), of which ``columns`` are written out; free the plain weight."""
        weight = linear.weight.data.contiguous()
        pairs = (width or linear.in_features) // 2
        packed = huge_pages.zeros(len(order) * pairs * 2, dtype=torch.bfloat16)
        self._pack(weight.data_ptr(), weight.shape[1] // 2, order.ctypes.data, len(order), pairs, packed.data_ptr())
        linear.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
        held = dict(linear.named_parameters())  # a bias that is none has no name
        bias = self._keep(_ordered(held["bias"].data.float(), order)) if "bias" in held else None
        return library.Linear(weight=self._keep(packed), bias=bias, columns=columns, pairs=pairs)

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _blocks(model: ChatGLM3Model) -> list[Block]:
    return list(model.transformer.encoder.layers)  # type: ignore[arg-type]  # a ModuleList does not tell what it holds


def _linears(model: ChatGLM3Model) -> list[nn.Module]:
    blocks = [(block.self_attention, block.mlp) for block in _blocks(model)]
    inner = [
        linear
        for attention, mlp in blocks
        for linear in (attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h)
    ]
    return [*inner, model.transformer.output_layer]


def _padded(number: int, to: int) -> int:
    return -(-number // to) * to


def _in_order(columns: int) -> NDArray[np.int32]:
    order = np.full(_padded(columns, GROUP), -1, np.int32)
    order[:columns] = np.arange(columns)
    return order


def _gated(inner: int) -> NDArray[np.int32]:
    """Gates [0, inner) and what they gate [inner, 2 * inner), 32 of the one and 32 of the other by turns."""
    gates = np.full(_padded(inner, HALF), -1, np.int32)
    gates[:inner] = np.arange(inner)
    ups = np.where(gates >= 0, gates + inner, -1).astype(np.int32)
    return np.concatenate([gates.reshape(-1, HALF), ups.reshape(-1, HALF)], axis=1).ravel()


def _ordered(bias: Tensor, order: NDArray[np.int32]) -> Tensor:
    index = torch.from_numpy(order.astype(np.int64))
    return torch.where(index >= 0, bias[index.clamp_min(0)], 0.0)
