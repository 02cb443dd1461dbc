"""The model over one sequence in contiguous memory: no engine, no pages, no packing."""

from __future__ import annotations

import torch
from torch import Tensor

from cluster.model.attention import ContiguousAttention
from cluster.model.chatglm import ChatGLM3Model


@torch.inference_mode()
def plain_logits(model: ChatGLM3Model, ids: list[int]) -> Tensor:
    """Logits [T, V] of every token of a prompt."""
    return model.logits(model(torch.tensor(ids), torch.arange(len(ids)), ContiguousAttention(model.prefix())))


@torch.inference_mode()
def plain_greedy(model: ChatGLM3Model, ids: list[int], stop_ids: set[int], max_tokens: int) -> list[int]:
    """The likeliest ids after the prompt, one at a time, the stop id included."""
    cache, fed, position, answer = ContiguousAttention(model.prefix()), ids, 0, []
    while len(answer) < max_tokens:
        positions = torch.arange(position, position + len(fed))
        position += len(fed)
        answer.append(int(model.logits(model(torch.tensor(fed), positions, cache)[-1:]).argmax()))
        fed = answer[-1:]
        if fed[0] in stop_ids:
            break
    return answer
