"""Examples in batches of about equal length, so that little is padding and no example sees another."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.demo.data.dialogues import training_dialogues
from cluster.demo.encoding import Example, encode
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

_POOL = 1500  # examples that are sorted together


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Rows of one length, padded behind with id 0. R rows, L positions.

    Attributes:
        token_ids: int64 [R, L].
        predicting: int64 [N], flat places (row * L + position) whose next id is learnt.
        targets: int64 [N], those next ids.
    """

    token_ids: Tensor
    predicting: Tensor
    targets: Tensor


def batches(tokenizer: ChatGLM3Tokenizer, seed: int, *, max_tokens: int, context: int) -> Iterator[TrainingBatch]:
    """Batches without end, each of at most ``max_tokens`` places; equal arguments give equal batches."""
    rng = random.Random(seed)  # noqa: S311 - choice of words, not a secret
    examples = (encode(tokenizer, dialogue, context) for dialogue in training_dialogues(rng))
    while True:
        pool = [example for example in itertools.islice(examples, _POOL) if any(example.learnt)]
        groups = list(_groups(sorted(pool, key=lambda example: len(example.ids)), max_tokens))
        rng.shuffle(groups)
        yield from map(_batch, groups)


def _groups(examples: list[Example], max_tokens: int) -> Iterator[list[Example]]:
    """Neighbours in length; the longest of a group comes last and decides its width."""
    group: list[Example] = []
    for example in examples:
        if group and (len(group) + 1) * len(example.ids) > max_tokens:
            yield group
            group = []
        group.append(example)
    yield group


def _batch(examples: list[Example]) -> TrainingBatch:
    width = max(len(example.ids) for example in examples)
    token_ids = torch.zeros(len(examples), width, dtype=torch.int64)
    learnt = torch.zeros(len(examples), width, dtype=torch.bool)
    for row, example in enumerate(examples):
        token_ids[row, : len(example.ids)] = torch.tensor(example.ids)
        learnt[row, : len(example.ids)] = torch.tensor(example.learnt)
    predicting = learnt[:, 1:].nonzero()  # (row, position before the learnt one)
    flat = predicting[:, 0] * width + predicting[:, 1]
    return TrainingBatch(token_ids, flat, token_ids.flatten()[flat + 1])
