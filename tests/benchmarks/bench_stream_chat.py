"""Tokens per second of ``stream_chat`` beside transformers' own ``generate`` on the same weights, in turns, in one run.

The weights are converted to transformers' GLM class: queries, keys and values are split, names change, values do not.
Both decode the same number of tokens greedily, in the same number of threads.

    python -m tests.benchmarks.bench_stream_chat CHECKPOINT [--tokens 128] [--rounds 3] [--dtype float32]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import GlmConfig, GlmForCausalLM

from cluster.model import ChatGLM3ForConditionalGeneration
from cluster.tokenizer import ChatGLM3Tokenizer

QUERY = "Hello, how are you?"


def converted(model: ChatGLM3ForConditionalGeneration) -> GlmForCausalLM:
    """The same weights in transformers' GLM class."""
    shape = model.shape
    config = GlmConfig(
        vocab_size=shape.padded_vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.multi_query_group_num,
        head_dim=shape.kv_channels,
        max_position_embeddings=shape.seq_length,
        rms_norm_eps=shape.layernorm_epsilon,
        attention_bias=shape.add_qkv_bias,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0 * shape.rope_ratio,
            "partial_rotary_factor": 0.5,
        },
        pad_token_id=0,
        eos_token_id=2,
    )
    glm = GlmForCausalLM(config).to(model.dtype).eval()
    glm.load_state_dict(_renamed(model))
    return glm


def _renamed(model: ChatGLM3ForConditionalGeneration) -> dict[str, torch.Tensor]:
    shape, held = model.shape, model.state_dict()
    named = {
        "model.embed_tokens.weight": held["transformer.embedding.word_embeddings.weight"],
        "model.norm.weight": held["transformer.encoder.final_layernorm.weight"],
        "lm_head.weight": held["transformer.output_layer.weight"],
    }
    for layer in range(shape.num_layers):
        old, new = f"transformer.encoder.layers.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias") if shape.add_qkv_bias else ("weight",):
            fused = held[f"{old}self_attention.query_key_value.{kind}"]
            parts = fused.split((shape.query_width, shape.kv_width, shape.kv_width))
            named |= {f"{new}self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
        named |= {
            f"{new}self_attn.o_proj.weight": held[f"{old}self_attention.dense.weight"],
            f"{new}input_layernorm.weight": held[f"{old}input_layernorm.weight"],
            f"{new}post_attention_layernorm.weight": held[f"{old}post_attention_layernorm.weight"],
            f"{new}mlp.gate_up_proj.weight": held[f"{old}mlp.dense_h_to_4h.weight"],
            f"{new}mlp.down_proj.weight": held[f"{old}mlp.dense_4h_to_h.weight"],
        }
    return named


def _rate(tokens: int, work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return tokens / (time.perf_counter() - begin)


def main() -> None:
    """Print both rates and their ratio: the median of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    tokenizer = ChatGLM3Tokenizer.from_pretrained(given.checkpoint)
    model = ChatGLM3ForConditionalGeneration.from_pretrained(given.checkpoint, dtype=given.dtype)
    glm = converted(model)
    ids = tokenizer.build_chat_input(QUERY).input_ids
    torch.testing.assert_close(glm(ids).logits.float(), model(ids).logits.float(), rtol=0.05, atol=0.3)
    count = given.tokens

    def streamed() -> None:
        made = model.stream_chat(tokenizer, QUERY, do_sample=False, max_new_tokens=count, eos_token_id=[])
        for _ in made:
            pass

    def generated() -> None:
        mask = torch.ones_like(ids)
        glm.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=count, min_new_tokens=count)

    streamed()
    generated()
    rates = [(_rate(count, streamed), _rate(count, generated)) for _ in range(given.rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
    print(  # noqa: T201 -- the line is the output
        f"{given.checkpoint} {model.dtype} stream_chat {ours:.1f}/s generate {theirs:.1f}/s ratio {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main()
