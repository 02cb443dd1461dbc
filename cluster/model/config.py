"""ChatGLM3's configuration as the published config.json states it.

``auto_map`` names Python files of the original release and is never followed. Defaults of absent fields are those of
the original configuration class and differ from the 6B values (2048 positions and no qkv bias, for instance), so a
shortened config.json describes another model. A field this project computes nothing for is refused, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import CheckpointError

if TYPE_CHECKING:  # a gateway reads configurations and never needs torch, which costs it seconds and memory
    import torch

CONFIG_FILE = "config.json"

# Fields whose other values change the arithmetic in a way no released ChatGLM3 uses: field -> (only value, default).
_FIXED: dict[str, tuple[object, object]] = {
    "rmsnorm": (True, True),
    "post_layer_norm": (True, True),
    "multi_query_attention": (True, False),
    "apply_residual_connection_post_layernorm": (False, False),
    "fp32_residual_connection": (False, False),
    "tie_word_embeddings": (False, False),
    "original_rope": (True, True),
}

QUANTIZED_BITS = (4, 8)


@dataclass(frozen=True, slots=True)
class ChatGLM3Config:
    """Shape and constants of a model; field names are those of config.json.

    Attributes:
        num_layers: blocks.
        hidden_size: H, width of the residual stream.
        num_attention_heads: A, query heads.
        kv_channels: D, width of one head.
        multi_query_group_num: G, key/value heads; A is a multiple of it.
        ffn_hidden_size: F, inner width of the MLP.
        padded_vocab_size: V, rows of the embedding and width of the logits.
        seq_length: positions, the hard limit of prompt and answer together.
        layernorm_epsilon: added to the mean square in RMSNorm.
        add_bias_linear: bias on ``dense`` and both MLP linears.
        add_qkv_bias: bias on ``query_key_value``.
        rope_ratio: multiplies the rotary base 10000 (long-context variants).
        torch_dtype: what the weights are stored in, as written by the publisher.
        quantization_bit: 4 or 8 where the blocks' linears are quantized to so many bits, else 0.
        pre_seq_len: learnt rows before every sequence (prefix tuning); 0: none.
        prefix_projection: whether those rows go through a small network of their own.
    """

    num_layers: int = 28
    hidden_size: int = 4096
    num_attention_heads: int = 32
    kv_channels: int = 128
    multi_query_group_num: int = 1
    ffn_hidden_size: int = 13696
    padded_vocab_size: int = 65024
    seq_length: int = 2048
    layernorm_epsilon: float = 1e-5
    add_bias_linear: bool = False
    add_qkv_bias: bool = False
    rope_ratio: float = 1.0
    torch_dtype: str = "float16"
    quantization_bit: int = 0
    pre_seq_len: int = 0
    prefix_projection: bool = False

    @property
    def query_width(self) -> int:
        """A * D, channels of all query heads."""
        return self.num_attention_heads * self.kv_channels

    @property
    def kv_width(self) -> int:
        """G * D, channels of all keys (or values) of one token."""
        return self.multi_query_group_num * self.kv_channels

    @property
    def qkv_width(self) -> int:
        """Output width of the fused ``query_key_value`` linear."""
        return self.query_width + 2 * self.kv_width

    @property
    def prefix_width(self) -> int:
        """L * 2 * G * D, channels of one row of the prefix: the keys and values of all layers."""
        return self.num_layers * 2 * self.kv_width

    def kv_bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes that one token's keys and values take over all layers."""
        return self.num_layers * 2 * self.kv_width * dtype.itemsize

    def num_parameters(self) -> int:
        """Weights and biases of the model without a prefix; 6,243,584,000 for the published 6B shape."""
        hidden, inner = self.hidden_size, self.ffn_hidden_size
        linears = self.qkv_width * hidden + hidden * self.query_width + 3 * inner * hidden
        biases = self.add_qkv_bias * self.qkv_width + self.add_bias_linear * (2 * hidden + 2 * inner)
        block = linears + biases + 2 * hidden
        return self.num_layers * block + 2 * self.padded_vocab_size * hidden + hidden


def load_config(folder: Path) -> ChatGLM3Config:
    """Read ``config.json`` of a checkpoint folder. Raises CheckpointError naming the file and the key."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; a checkpoint is a folder with {CONFIG_FILE} and weights.")
    path = folder / CONFIG_FILE
    return parse_config(read_fields(path), path)


def parse_config(fields: Mapping[str, Any], path: Path) -> ChatGLM3Config:
    """Check and pick the fields that shape the model; ``path`` only names the file in errors."""
    _refuse_unsupported(fields, path)
    picked = {name: _typed(fields[name], kind, name, path) for name, kind in _KINDS.items() if name in fields}
    picked["torch_dtype"] = _stored_dtype(fields, path)
    picked["quantization_bit"] = _quantization_bit(fields, path)
    picked["pre_seq_len"] = _optional_count(fields, "pre_seq_len", path)
    config = ChatGLM3Config(**picked)
    _check_shape(config, path)
    return config


def read_fields(path: Path) -> dict[str, Any]:
    """config.json's object as it stands. Raises CheckpointError naming the file."""
    return read_object(path, f"a checkpoint folder holds a {CONFIG_FILE}")


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """A JSON file's object. Raises CheckpointError naming the file; with ``hint`` where it is missing."""
    try:
        fields = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; {hint}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return fields


def _refuse_unsupported(fields: Mapping[str, Any], path: Path) -> None:
    if (kind := fields.get("model_type")) != "chatglm":
        raise CheckpointError(f"{path}: model_type is {kind!r}; only 'chatglm' (ChatGLM3) can be served.")
    for name, (only, default) in _FIXED.items():
        if (value := fields.get(name, default)) is not only:
            raise CheckpointError(f"{path}: {name} is {value!r}; only {only!r} is supported.")


_INPUT_WIDTHS = ("hidden_size", "query_width", "ffn_hidden_size")  # columns of the weights that can be quantized

_KINDS: dict[str, type] = {
    "num_layers": int,
    "hidden_size": int,
    "num_attention_heads": int,
    "kv_channels": int,
    "multi_query_group_num": int,
    "ffn_hidden_size": int,
    "padded_vocab_size": int,
    "seq_length": int,
    "layernorm_epsilon": float,
    "rope_ratio": float,
    "add_bias_linear": bool,
    "add_qkv_bias": bool,
    "prefix_projection": bool,
}


def _typed(value: object, kind: type, name: str, path: Path) -> Any:
    if kind is bool and isinstance(value, bool):
        return value
    is_number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if kind is not bool and is_number and 0 < value < 1e12:  # type: ignore[operator]  # a number, by the line above
        return kind(value)
    wanted = {bool: "true or false", int: "a positive integer", float: "a positive number"}[kind]
    raise CheckpointError(f"{path}: {name} is {value!r}; it must be {wanted}.")


def _quantization_bit(fields: Mapping[str, Any], path: Path) -> int:
    bits = _optional_count(fields, "quantization_bit", path)
    if bits and bits not in QUANTIZED_BITS:
        raise CheckpointError(f"{path}: quantization_bit is {bits}; it must be 4, 8, or 0 for weights as they are.")
    return bits


def _optional_count(fields: Mapping[str, Any], name: str, path: Path) -> int:
    """A count that the published files leave out, or write as null or 0, where there is nothing."""
    value = fields.get(name)
    if value is None or (value == 0 and value is not False):
        return 0
    return int(_typed(value, int, name, path))


def _stored_dtype(fields: Mapping[str, Any], path: Path) -> str:
    name = fields.get("torch_dtype", fields.get("dtype", "float16"))
    if name not in {"float16", "bfloat16", "float32"}:
        raise CheckpointError(f"{path}: torch_dtype is {name!r}; it must be float16, bfloat16 or float32.")
    return str(name)


def odd_widths(config: ChatGLM3Config) -> list[str]:
    """Names of the widths for which a weight cannot be stored two columns to a byte."""
    return [name for name in _INPUT_WIDTHS if getattr(config, name) % 2]


def _check_shape(config: ChatGLM3Config, path: Path) -> None:
    heads, groups = config.num_attention_heads, config.multi_query_group_num
    if heads % groups:
        raise CheckpointError(
            f"{path}: num_attention_heads ({heads}) is not a multiple of multi_query_group_num ({groups})."
        )
    if config.kv_channels % 4:
        raise CheckpointError(
            f"{path}: kv_channels is {config.kv_channels}; it must be a multiple of 4, as half of each head is rotated "
            "in pairs."
        )
    if config.quantization_bit == 4 and (odd := odd_widths(config)):
        raise CheckpointError(
            f"{path}: {odd[0]} is odd, but quantization_bit 4 stores two columns of a weight in one byte."
        )
    if config.prefix_projection and not config.pre_seq_len:
        raise CheckpointError(f"{path}: prefix_projection is true, but pre_seq_len says that there is no prefix.")
