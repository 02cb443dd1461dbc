"""A small ChatGLM3 with random weights whose answers are not all alike."""

from __future__ import annotations

import torch
from torch import nn

from cluster.model.chatglm import ChatGLM3Model
from cluster.model.config import ChatGLM3Config

SHAPE = ChatGLM3Config(
    num_layers=2,
    hidden_size=64,
    num_attention_heads=4,
    kv_channels=16,
    multi_query_group_num=2,
    ffn_hidden_size=170,  # no multiple of a vector's width
    padded_vocab_size=300,
    seq_length=256,
    add_qkv_bias=True,
)


def random_model(dtype: torch.dtype, shape: ChatGLM3Config = SHAPE) -> ChatGLM3Model:
    """The same weights at every call, but for rounding to ``dtype``; on CPU."""
    model = ChatGLM3Model(shape, dtype=dtype, device=torch.device("cpu"))
    source = torch.Generator().manual_seed(7)
    for name, parameter in list(model.named_parameters()):
        values = torch.randn(parameter.shape, generator=source)
        scaled = 1 + 0.1 * values if "layernorm" in name else values * _scale(name, parameter)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(scaled.to(dtype), requires_grad=False))
    return model.eval()


def _scale(name: str, parameter: nn.Parameter) -> float:
    if "embedding" in name:
        return 1.0
    gain = 2.0 if "query_key_value" in name or "output_layer" in name else 1.0  # sharp attention, a few likely ids
    return float(gain * parameter.shape[-1] ** -0.5)
