"""A served model's fingerprint, by which sampled ids are used again, names all that changes its answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.turn_process.config import ProcessConfig
from services.turn_process.served import served_model

DATA = Path(__file__).parents[2] / "parity" / "data"
LORA = str(DATA / "goldens" / "lora_tiny")
CONFIG = ProcessConfig(str(DATA / "tiny"), "chatglm3", "", history_ttl_s=1, longest_turn_s=1, drain_grace_s=1)


def test_fingerprints_tell_models_apart() -> None:
    """Weights, bits, adapters and prefixes; never where a folder lies."""
    tokenizer = ChatGLM3Tokenizer.from_pretrained(DATA / "tiny")
    configs = [CONFIG, replace(CONFIG, model_path=str(DATA / "tiny-bin"))]
    configs += [replace(CONFIG, quantize=bits) for bits in (4, 8)]
    configs += [replace(CONFIG, lora=LORA), replace(CONFIG, prefix=LORA)]
    prints = [served_model(config, tokenizer).fingerprint for config in configs]
    assert len(set(prints)) == len(configs)
    assert prints[0] == served_model(CONFIG, tokenizer).fingerprint
