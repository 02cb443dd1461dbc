"""The folder's two configurations as transformers knows them, and transformers' one renamed word."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Final

from transformers import GenerationConfig, PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import GENERATION_CONFIG_NAME

from cluster.errors import CheckpointError
from cluster.model.config import ChatGLM3Config, parse_config, read_object
from cluster.model.generation.options import TOP_K

# transformers 5.24 calls the cache ``cache`` in signatures and outputs, earlier ones ``past_key_values``.
CACHE: Final = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class ChatGLMConfig(PreTrainedConfig):  # type: ignore[misc]  # untyped library
    """Holds every field of config.json as it stands there; absent ones stay absent. ``shape`` reads them."""

    model_type = "chatglm"
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "vocab_size": "padded_vocab_size",
        "max_position_embeddings": "seq_length",
        "num_key_value_heads": "multi_query_group_num",
        "head_dim": "kv_channels",
    }

    def shape(self) -> ChatGLM3Config:
        """The checked shape of the model.

        Raises:
            CheckpointError: a field is wrong or unsupported; names it.
        """
        return parse_config(self.to_dict(), Path(self.name_or_path or ".") / "config.json")

    def become(self, shape: ChatGLM3Config) -> None:
        """Say what was made of a checkpoint: its quantization and its prefix."""
        now = self.shape()
        for name in ("quantization_bit", "pre_seq_len", "prefix_projection"):
            if getattr(shape, name) != getattr(now, name):
                setattr(self, name, getattr(shape, name))

    @classmethod
    def of(cls, held: dict[str, Any], name: str) -> ChatGLMConfig:
        """From config.json's fields, but for ``auto_map``, which names code that is never run, and transformers' names.

        Raises:
            CheckpointError: a field is wrong or unsupported; names it.
        """
        parse_config(held, Path(name) / "config.json")
        left_out = {"auto_map", "transformers_version", *cls.attribute_map}
        config = cls(**{key: value for key, value in held.items() if key not in left_out})
        config._name_or_path = name
        return config


def generation_config(folder: Path | None = None) -> GenerationConfig:
    """The published defaults, and over them what the folder's generation_config.json says, if there is one.

    Raises:
        CheckpointError: the file is damaged, or says what cannot be.
    """
    defaults = {"eos_token_id": 2, "pad_token_id": 0, "top_k": TOP_K}
    if folder is None or not (path := folder / GENERATION_CONFIG_NAME).exists():
        return GenerationConfig(**defaults)
    held = {name: value for name, value in read_object(path, "").items() if value is not None}
    try:
        return GenerationConfig(**defaults | held)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no configuration of generation: {error}") from error
