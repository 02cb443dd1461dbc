"""What every writer of a checkpoint shares: its config.json, and a folder that appears whole or not at all."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import ConfigurationError
from cluster.model.config import CONFIG_FILE, ChatGLM3Config

# Fields that the published config.json leaves out where they change nothing.
_OPTIONAL = ("rope_ratio", "quantization_bit", "pre_seq_len", "prefix_projection")


@contextmanager
def new_checkpoint_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A draft folder beside ``folder`` that takes its name at the end, or is removed on an error.

    Raises:
        ConfigurationError: ``folder`` holds something already, and ``replace`` does not say that it may go.
    """
    if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} exists and is not empty; name a new folder for the checkpoint.")
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    draft.mkdir(parents=True)
    try:
        yield draft
        for file in draft.iterdir():
            file.chmod(0o644)  # safetensors makes files that only their owner can read; a service is often another user
        if replace and folder.exists():
            shutil.rmtree(folder)
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def write_config(folder: Path, config: ChatGLM3Config, name: str) -> None:
    """Write config.json into ``folder``."""
    text = json.dumps(published_fields(config, name), indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def published_fields(config: ChatGLM3Config, name: str) -> dict[str, Any]:
    """config.json's fields as the published model writes them, ``auto_map`` included (nobody follows it here)."""
    kind = "modeling_chatglm.ChatGLMFor"
    plain = ChatGLM3Config()
    own = {name: getattr(config, name) for name in config.__slots__}
    left_out = {name for name in _OPTIONAL if own[name] == getattr(plain, name)}
    return {name: value for name, value in own.items() if name not in left_out} | {
        "_name_or_path": name,
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModel": f"{kind}ConditionalGeneration",
            "AutoModelForCausalLM": f"{kind}ConditionalGeneration",
            "AutoModelForSeq2SeqLM": f"{kind}ConditionalGeneration",
            "AutoModelForSequenceClassification": f"{kind}SequenceClassification",
        },
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "multi_query_attention": True,
        "original_rope": True,
        "post_layer_norm": True,
        "rmsnorm": True,
        "use_cache": True,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
