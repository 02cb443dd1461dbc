"""config.json is read as published, and refused where this project would compute something else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cluster.errors import CheckpointError
from cluster.model.config import load_config, parse_config

TINY = Path(__file__).parents[2] / "parity" / "data" / "tiny"
PATH = Path("model/config.json")
MINIMAL = {"model_type": "chatglm", "multi_query_attention": True}
PUBLISHED_6B = {
    **MINIMAL,
    "multi_query_group_num": 2,
    "num_layers": 28,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "ffn_hidden_size": 13696,
    "padded_vocab_size": 65024,
    "seq_length": 8192,
    "add_qkv_bias": True,
}


def test_the_recorded_checkpoint_is_read():
    """The original field set, auto_map included, describes the tiny model."""
    config = load_config(TINY)
    assert (config.num_layers, config.hidden_size, config.query_width, config.kv_width) == (3, 64, 64, 32)
    assert (config.seq_length, config.rope_ratio, config.add_qkv_bias, config.torch_dtype) == (1024, 1, True, "float32")


def test_the_published_6b_shape_counts_as_published():
    """6,243,584,000 parameters, and 28,672 bytes of cache per token in half precision."""
    config = parse_config(PUBLISHED_6B, PATH)
    assert config.num_parameters() == 6_243_584_000
    assert config.kv_bytes_per_token(torch.float16) == 28_672


def test_absent_fields_take_the_original_defaults():
    """They are not the 6B values: 2048 positions, no qkv bias, one group."""
    config = parse_config(MINIMAL, PATH)
    assert (config.seq_length, config.add_qkv_bias, config.multi_query_group_num) == (2048, False, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("rmsnorm", False),
        ("post_layer_norm", False),
        ("multi_query_attention", False),
        ("apply_residual_connection_post_layernorm", True),
        ("fp32_residual_connection", True),
        ("tie_word_embeddings", True),
        ("original_rope", False),
        ("quantization_bit", 3),
        ("quantization_bit", "8"),
        ("quantization_bit", True),
        ("pre_seq_len", -1),
        ("pre_seq_len", [128]),
        ("prefix_projection", 1),
        ("prefix_projection", True),
        ("num_layers", 0),
        ("num_layers", "28"),
        ("hidden_size", 64.5),
        ("seq_length", True),
        ("layernorm_epsilon", -1e-5),
        ("rope_ratio", float("nan")),
        ("add_qkv_bias", 1),
        ("torch_dtype", "int8"),
        ("num_attention_heads", 31),
        ("kv_channels", 126),
    ],
)
def test_an_unsupported_value_is_refused_by_file_and_key(key, value):
    """Nothing that changes the arithmetic is ignored."""
    with pytest.raises(CheckpointError, match=rf"model/config\.json: .*{key}"):
        parse_config({**PUBLISHED_6B, key: value}, PATH)


def test_quantization_and_prefix_are_read():
    """Absent, null and 0 all mean that there is none, as the published files have it."""
    tuned = parse_config({**PUBLISHED_6B, "pre_seq_len": 128, "prefix_projection": True, "quantization_bit": 8}, PATH)
    assert (tuned.pre_seq_len, tuned.prefix_projection, tuned.quantization_bit) == (128, True, 8)
    assert tuned.prefix_width == 28 * 2 * 2 * 128
    plain = parse_config({**PUBLISHED_6B, "pre_seq_len": None, "quantization_bit": 0}, PATH)
    assert (plain.pre_seq_len, plain.quantization_bit) == (0, 0)


def test_four_bits_need_an_even_number_of_columns():
    """Two of them share a byte."""
    odd = {**PUBLISHED_6B, "ffn_hidden_size": 171}
    assert parse_config({**odd, "quantization_bit": 8}, PATH).ffn_hidden_size == 171
    with pytest.raises(CheckpointError, match="ffn_hidden_size is odd"):
        parse_config({**odd, "quantization_bit": 4}, PATH)


@pytest.mark.parametrize("text", ["", "[]", "{", "nul", "[" * 100_000, "\udcff"])
def test_a_file_that_is_no_json_object_is_refused_by_name(tmp_path, text):
    """Truncated, empty, foreign, absurdly nested or not UTF-8."""
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_config(tmp_path)


def test_a_folder_without_configuration_is_refused_by_name(tmp_path):
    """The usual mistake: the wrong folder."""
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_config(tmp_path)


def test_a_file_in_the_place_of_a_folder_is_called_so(tmp_path):
    """Instead of a path inside it."""
    (tmp_path / "model").write_text("")
    with pytest.raises(CheckpointError, match=r"model is not a folder"):
        load_config(tmp_path / "model")


def test_reading_a_configuration_does_not_load_torch():
    """Gateways read the shape and stay small."""
    code = "import sys; from cluster.model import config; print(json.dumps('torch' in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", f"import json; {code}"], capture_output=True, check=True, text=True)
    assert json.loads(ran.stdout) is False
