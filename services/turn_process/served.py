"""What a gateway knows of the model that replicas serve, from its folders alone: no weight is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cluster.model.config import load_config
from cluster.model.identity import changes_identity, checkpoint_identity
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.turn_process.config import ProcessConfig
from services.turns.settings import ServedModel


def served_model(config: ProcessConfig, tokenizer: ChatGLM3Tokenizer) -> ServedModel:
    """Name, context and fingerprint. Raises CheckpointError where a folder cannot be read."""
    shape = load_config(Path(config.model_path))
    return ServedModel(
        name=config.model_name, context_length=shape.seq_length, fingerprint=_fingerprint(config, tokenizer)
    )


def _fingerprint(config: ProcessConfig, tokenizer: ChatGLM3Tokenizer) -> str:
    """Changes when configuration, tokenizer, weight files or what is applied to the weights change."""
    digest = hashlib.blake2b(tokenizer.fingerprint.encode(), digest_size=8)
    digest.update(checkpoint_identity(Path(config.model_path)))
    digest.update(changes_identity(quantize=config.quantize, lora=config.lora, prefix=config.prefix).encode())
    return f"fp_{digest.hexdigest()}"
