"""Trains the demo model: ChatGLM3's own module, float32 weights, bfloat16 arithmetic where torch finds it safe.

The weights are a function of the recipe, the machine's arithmetic and its thread count; on another machine they differ
in the last digits, and so a little in what they have learnt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cluster.demo.batches import TrainingBatch, batches
from cluster.demo.vocabulary import make_tokenizer
from cluster.model.chatglm import ChatGLM3Model
from cluster.model.checkpoint import SIZES
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

SHAPE: Final = replace(SIZES["demo"][0], torch_dtype="bfloat16")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights.

    Attributes:
        seed: of tokenizer, weights and conversations.
        steps: of the optimizer.
        batch_tokens: places of one step, padding included.
        learning_rate: AdamW's, at its peak.
        warmup: steps until the peak; a cosine leads down from there to a twentieth.
    """

    seed: int = 0
    steps: int = 10000
    batch_tokens: int = 4096
    learning_rate: float = 2e-3
    warmup: int = 200

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of the training.

    Attributes:
        step: counted from 1.
        loss: mean cross entropy of its learnt ids, in nats.
        tokens: places computed so far.
        seconds: since the first step began.
    """

    step: int
    loss: float
    tokens: int
    seconds: float


class _RowAttention:
    """Causal attention of a batch of rows; nothing is kept. See ``cluster.model.attention.Attention``."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def forward(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """[R * L, A, D] and [R * L, 2, G, D] -> [R * L, A * D]."""
        del layer
        tokens, heads, dim = query.shape
        groups = key_value.shape[2]
        query = query.view(self._rows, -1, heads, dim).transpose(1, 2)
        keys, values = key_value.view(self._rows, -1, 2, groups, dim).permute(2, 0, 3, 1, 4)
        keys, values = (x.repeat_interleave(heads // groups, 1) for x in (keys, values))
        context = nn.functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
        return context.transpose(1, 2).reshape(tokens, heads * dim)


def train(folder: Path, recipe: Recipe, device: torch.device, report: Callable[[Progress], None]) -> None:
    """Write tokenizer and weights into ``folder``, which exists. ``report`` is called after every step."""
    tokenizer = make_tokenizer(folder, recipe.seed)
    model = _new_model(recipe.seed, device)
    for progress in _steps(model, tokenizer, recipe, device):
        report(progress)
    weights = {name: parameter.detach().to("cpu", torch.bfloat16) for name, parameter in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _new_model(seed: int, device: torch.device) -> ChatGLM3Model:
    """Normal weights; those that write into the residual stream are smaller, by depth (GPT-2's rule)."""
    model = ChatGLM3Model(SHAPE, dtype=torch.float32, device=device).to_empty(device=device)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "layernorm" in name:
            value = torch.ones(parameter.shape)
        elif name.endswith("bias"):
            value = torch.zeros(parameter.shape)
        else:
            value = torch.randn(parameter.shape, generator=generator) * _std(name, parameter.shape)
        parameter.data.copy_(value)
    return model.requires_grad_(requires_grad=True).train()


def _std(name: str, shape: torch.Size) -> float:
    if name.endswith("word_embeddings.weight"):
        return 0.02
    depth = math.sqrt(2 * SHAPE.num_layers) if name.endswith(("dense.weight", "dense_4h_to_h.weight")) else 1
    return 1 / math.sqrt(shape[1]) / depth / (1 if "output_layer" not in name else 4)


def _steps(
    model: ChatGLM3Model, tokenizer: ChatGLM3Tokenizer, recipe: Recipe, device: torch.device
) -> Iterator[Progress]:
    optimizer = torch.optim.AdamW(_groups(model), betas=(0.9, 0.98), fused=True)
    source = batches(tokenizer, recipe.seed, max_tokens=recipe.batch_tokens, context=SHAPE.seq_length)
    began, tokens = time.monotonic(), 0
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        batch = next(source)
        loss = _loss(model, batch, device)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.token_ids.numel()
        yield Progress(step + 1, loss.item(), tokens, time.monotonic() - began)


def _groups(model: ChatGLM3Model) -> list[dict[str, object]]:
    """Matrices decay, vectors do not."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    return [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]


def _loss(model: ChatGLM3Model, batch: TrainingBatch, device: torch.device) -> Tensor:
    """Mean cross entropy of the learnt ids."""
    rows, length = batch.token_ids.shape
    positions = torch.arange(length, device=device).repeat(rows)
    with torch.autocast(device.type, torch.bfloat16):
        hidden = model(batch.token_ids.flatten().to(device), positions, _RowAttention(rows))
        logits = model.logits(hidden[batch.predicting.to(device)])
    return nn.functional.cross_entropy(logits.float(), batch.targets.to(device))
