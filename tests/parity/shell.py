"""The library shell over the recorded checkpoints, and recorded chats turn by turn."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch

from cluster.model import ChatGLM3ForConditionalGeneration
from cluster.tokenizer import ChatGLM3Tokenizer
from tests.parity.recorded import DATA, load_json

CHATS = {"chat_tiny": "tiny", "chat_tiny_32k": "tiny-32k", "scripted_chat_tiny": "tiny", "chat_beam_tiny": "tiny"}


@cache
def shell(name: str, dtype: str = "float32") -> ChatGLM3ForConditionalGeneration:
    """A recorded checkpoint as users load it."""
    return ChatGLM3ForConditionalGeneration.from_pretrained(DATA / name, dtype=dtype)


@cache
def tokenizer(name: str = "tiny") -> ChatGLM3Tokenizer:
    """Its tokenizer."""
    return ChatGLM3Tokenizer.from_pretrained(DATA / name)


class Script:
    """A logits processor that forces recorded ids, the prompt's length aside."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids
        self._prompt: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._prompt is None:
            self._prompt = input_ids.shape[1]
        step = input_ids.shape[1] - self._prompt
        forced = scores.clone()
        forced[:, self._ids[min(step, len(self._ids) - 1)]] = 1e4
        return forced


def arguments(turn: dict[str, Any]) -> dict[str, Any]:
    """What a recorded turn was called with."""
    given = dict(turn["args"]) if "args" in turn else {"do_sample": False, "max_length": turn["max_length"]}
    if "script" in turn:
        given["logits_processor"] = [Script(turn["script"])]
    return given


def turns(mode: str) -> list[tuple[str, str, list[Any], dict[str, Any]]]:
    """(name, checkpoint, history before, turn) of every recorded chat in ``mode``."""
    return [
        (f"{file}-{case['name']}-{number}", model, copy.deepcopy(history), turn)
        for file, model in CHATS.items()
        for case in load_json(file).get(mode, [])
        for number, (history, turn) in enumerate(
            zip(
                [case["start_history"], *(turn["history_after"] for turn in case["turns"])], case["turns"], strict=False
            )
        )
    ]


def conversations(mode: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, checkpoint, case) of every recorded chat in ``mode``."""
    return [
        (f"{file}-{case['name']}", model, case)
        for file, model in CHATS.items()
        for case in load_json(file).get(mode, [])
    ]
