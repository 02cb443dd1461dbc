"""Holds the demo model's conversations with the engine that serves: own answers in the history, warm cache and all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from cluster.demo.data.dialogue import Dialogue, Message, Turn
from cluster.demo.encoding import encode_message
from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.runner import ModelRunner
from cluster.model.loader import load_model
from cluster.protocol import FinishReason, GenerateRequest, SamplingParams, Tokens
from cluster.tokenizer.template import assistant_ids, prefix_ids
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

LONGEST_ANSWER: Final = 160  # tokens; the longest that is taught has less than 80

_PAGE_SIZE: Final = 16
_PAGES: Final = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to a turn.

    Attributes:
        turn: the question, and the answer that would be right.
        ids: sampled, without the stop id.
        message: the same as text, its header as metadata.
        ended: whether the model stopped by itself.
    """

    turn: Turn
    ids: list[int]
    message: Message
    ended: bool


@dataclass(slots=True)
class _Held:
    dialogue: Dialogue
    ids: list[int]
    answers: list[Answer] = field(default_factory=list)


class Player:
    """A checkpoint in an engine of this process.

    Args:
        folder: the checkpoint.
        dtype: of the weights; ``up`` serves float32 on a CPU.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.tokenizer = ChatGLM3Tokenizer.from_pretrained(folder)
        model = load_model(folder, dtype, "cpu")
        config = EngineConfig(
            model_id=str(folder),
            context_length=model.config.seq_length,
            vocab_size=model.config.padded_vocab_size,
            page_size=_PAGE_SIZE,
            max_waiting=1 << 16,
            max_wait_s=math.inf,  # nobody waits for an answer here
        )
        self._engine = Engine(ModelRunner(model, num_pages=_PAGES, page_size=_PAGE_SIZE), config)

    def play(self, dialogues: Sequence[Dialogue], *, temperature: float, seed: int) -> list[Answer]:
        """Ask every turn of every dialogue, all first turns together, then all second ones. The answers, in order."""
        held = [_Held(dialogue, self._opening(dialogue)) for dialogue in dialogues]
        for place in range(max(len(dialogue.turns) for dialogue in dialogues)):
            asked = [each for each in held if place < len(each.dialogue.turns)]
            for each in asked:
                each.ids += encode_message(self.tokenizer, each.dialogue.turns[place].message) + assistant_ids(
                    self.tokenizer
                )
            sampling = [self._sampling(temperature, seed + 1000 * place + row) for row in range(len(asked))]
            generated = self._generate([each.ids for each in asked], sampling)
            for each, (ids, ended) in zip(asked, generated, strict=True):
                each.ids += ids
                each.answers.append(Answer(each.dialogue.turns[place], ids, self._message(ids), ended))
        return [answer for each in held for answer in each.answers]

    def _opening(self, dialogue: Dialogue) -> list[int]:
        system = encode_message(self.tokenizer, dialogue.system) if dialogue.system else []
        return prefix_ids(self.tokenizer) + system

    def _sampling(self, temperature: float, seed: int) -> SamplingParams:
        return SamplingParams(
            temperature=temperature, seed=seed, max_new_tokens=LONGEST_ANSWER, stop_ids=self.tokenizer.stop_ids
        )

    def _generate(self, prompts: list[list[int]], sampling: list[SamplingParams]) -> list[tuple[list[int], bool]]:
        """Sampled ids of each prompt, and whether a stop id ended them."""
        ids: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        for row, (prompt, params) in enumerate(zip(prompts, sampling, strict=True)):
            self._engine.submit(
                GenerateRequest(
                    attempt=row, request_id=f"row-{row}", tenant="demo", prompt_ids=list(prompt), sampling=params
                )
            )
        while self._engine.has_work:
            for row, event in self._engine.step():
                if isinstance(event, Tokens):
                    ids[row] += event.ids
                else:
                    ended[row] = event.reason is FinishReason.STOP
        return list(zip(ids, ended, strict=True))

    def _message(self, ids: list[int]) -> Message:
        """The header up to the first newline, and the content behind it without the blank that opens it."""
        header, _, content = self.tokenizer.decode(ids).partition("\n")
        return Message("assistant", content.removeprefix(" "), header)
