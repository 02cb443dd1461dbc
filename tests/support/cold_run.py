"""What the model answers when nothing is cached: an engine in this process, each run under a salt of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.runner import ModelRunner, num_pages_for
from cluster.model.attention import ContiguousAttention
from cluster.model.loader import load_model
from cluster.protocol import GenerateRequest, SamplingParams, Tokens

KV_BYTES = 2**27


class ColdModel:
    """A float32 model on the CPU; ``greedy`` never finds anything in its cache."""

    def __init__(self, folder: Path) -> None:
        model = load_model(folder, torch.float32, "cpu")
        self._model = model
        pages = num_pages_for(KV_BYTES, model.config, torch.float32, 16)
        config = EngineConfig(
            model_id="cold", context_length=model.config.seq_length, vocab_size=model.config.padded_vocab_size
        )
        self._engine = Engine(ModelRunner(model, num_pages=pages, page_size=16), config)
        self._runs = itertools.count(1)

    def margin(self, ids: Sequence[int]) -> float:
        """Difference of the two largest logits after ``ids``."""
        count = len(ids)
        with torch.inference_mode():
            hidden = self._model(torch.tensor(ids), torch.arange(count), ContiguousAttention())
            best = self._model.logits(hidden[-1:]).topk(2).values[0]
        return float(best[0] - best[1])

    def greedy(self, prompt: Sequence[int], *, tokens: int, stop_ids: Sequence[int] = ()) -> list[int]:
        """The greedy answer to a prompt."""
        run = next(self._runs)
        sampling = SamplingParams(temperature=0, max_new_tokens=tokens, stop_ids=tuple(stop_ids))
        self._engine.submit(
            GenerateRequest(
                attempt=run, request_id="cold", tenant=f"cold-{run}", prompt_ids=list(prompt), sampling=sampling
            )
        )
        ids: list[int] = []
        while self._engine.has_work:
            ids += [i for _, event in self._engine.step() if isinstance(event, Tokens) for i in event.ids]
        return ids
