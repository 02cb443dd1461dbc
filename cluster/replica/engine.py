"""Builds the engine of a replica from its settings: in a thread of this process, or in a process of its own.

Nothing here imports torch before the engine does: a replica whose engine is elsewhere is spared its memory.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cluster.engine.async_engine import ThreadedEngine
from cluster.engine.client import EngineClient
from cluster.engine.config import EngineConfig
from cluster.engine.plan import Runner
from cluster.engine.process.client import ProcessEngine
from cluster.engine.step_pace import StepWatch
from cluster.engine.structure.compiler import StructureCompiler
from cluster.engine.structure.vocabulary import Vocabulary
from cluster.model.config import load_config
from cluster.model.identity import changes_identity
from cluster.replica.config import ReplicaConfig
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

FACTORY = f"{__name__}:threaded_engine"


def build_engine(config: ReplicaConfig) -> EngineClient:
    """An engine that loads its checkpoint when started.

    Raises:
        CheckpointError: the checkpoint's configuration cannot be served.
        ConfigurationError: the limits cannot work together.
    """
    if not config.engine_process:
        return _threaded(config, StepWatch())
    _engine_config(config)  # raises here and now what the child would raise later
    return ProcessEngine(FACTORY, msgspec.json.encode(config), max_waiting=config.max_waiting)


def threaded_engine(data: bytes, watch: StepWatch) -> ThreadedEngine:
    """``Factory`` of the engine's own process. ``data`` is JSON of ``ReplicaConfig``."""
    return _threaded(msgspec.json.decode(data, type=ReplicaConfig), watch)


def _threaded(config: ReplicaConfig, watch: StepWatch) -> ThreadedEngine:
    def make_runner() -> Runner:
        from cluster.replica.runner import build_runner  # noqa: PLC0415 - torch, and in the engine's thread

        return build_runner(config)

    engine_config = _engine_config(config)

    def load_vocabulary() -> Vocabulary:
        return Vocabulary.of(ChatGLM3Tokenizer.from_pretrained(config.model_path), engine_config.vocab_size)

    return ThreadedEngine(make_runner, engine_config, watch=watch, structures=StructureCompiler(load_vocabulary))


def _engine_config(config: ReplicaConfig) -> EngineConfig:
    shape = load_config(Path(config.model_path))
    changes = changes_identity(quantize=config.quantize, lora=config.lora, prefix=config.prefix)
    return EngineConfig(
        model_id=f"{config.model_path}:{config.dtype}:{changes}",
        context_length=shape.seq_length,
        vocab_size=shape.padded_vocab_size,
        page_size=config.page_size,
        max_num_seqs=config.max_num_seqs,
        max_batched_tokens=config.max_batched_tokens,
        max_prefill_while_decoding=config.max_prefill_while_decoding,
        max_waiting=config.max_waiting,
        max_wait_s=config.max_wait_s,
        max_named_tenants=config.max_named_tenants,
    )
