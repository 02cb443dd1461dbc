"""Finds out whether a checkpoint is whole and speaks: sums, tensors, numbers, a dialogue it should expect, an answer.

Checks run in this order, each only where those before it left something to check; they return what they found instead
of raising it. Computing runs in float32 on a CPU, over contiguous memory, apart from the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from cluster.errors import ClusterError
from cluster.model.attention import ContiguousAttention
from cluster.model.chatglm import ChatGLM3Model
from cluster.model.checkpoint import CheckpointReport, inspect_checkpoint
from cluster.model.files import open_shard
from cluster.model.hashes import known_sums, sha256
from cluster.model.loader import load_model, require_finite
from cluster.tokenizer.template import assistant_ids, chat_input_ids, message_ids, prefix_ids
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

Progress = Callable[[str, int, int], None]  # (what is being done, steps done, steps in all)

QUESTION: Final = "Hello!"
ANSWER_TOKENS: Final = 32

_LARGEST_EXPONENT: Final = 700.0  # beyond which exp overflows

# What any chat model of these languages may say; perplexity is measured over the answers alone.
DIALOGUE: Final = (
    ("Hi! My name is Anna and I live in Lisbon.", "Nice to meet you, Anna from Lisbon!"),
    ("What is my name?", "Your name is Anna."),
    ("你好", "你好！有什么可以帮你的吗？"),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One check's outcome.

    Attributes:
        name: ``files``, ``tensors``, ``numbers``, ``perplexity`` or ``answer``.
        passed: whether nothing is wrong.
        said: what was found, one sentence.
    """

    name: str
    passed: bool
    said: str


def verify(folder: Path, progress: Progress = lambda *_: None) -> Iterator[Check]:
    """Run the checks, yielding each as it ends; after a failed one that others build on, no more come.

    Raises:
        MemoryError: the model does not fit.
    """
    report = inspect_checkpoint(folder)
    if report.files:
        yield _check("files", lambda: _check_files(folder, progress))
    shapes = _check_tensors(report)
    yield shapes
    if not shapes.passed:
        return
    numbers = _check("numbers", lambda: _check_numbers(report, progress))
    yield numbers
    if not numbers.passed:
        return
    progress("loading", 0, 1)
    model = load_model(folder, torch.float32, "cpu")
    tokenizer = ChatGLM3Tokenizer.from_pretrained(folder)
    yield _check("perplexity", lambda: _check_perplexity(model, tokenizer, progress))
    yield _check("answer", lambda: _check_answer(model, tokenizer, progress))


def _check(name: str, run: Callable[[], tuple[bool, str]]) -> Check:
    try:
        return Check(name, *run())
    except ClusterError as error:
        return Check(name, passed=False, said=str(error))


def _check_files(folder: Path, progress: Progress) -> tuple[bool, str]:
    sums = known_sums(folder)
    for done, (file, expected) in enumerate(sums.items()):
        progress(f"hashing {file.name}", done, len(sums))
        if (actual := sha256(file)) != expected:
            return False, f"{file} has the SHA-256 sum {actual}, not {expected}; fetch it again."
    return True, f"{len(sums)} files have the SHA-256 sums that are known of them." if sums else "No sums are known."


def _check_tensors(report: CheckpointReport) -> Check:
    if report.problem:
        return Check("tensors", passed=False, said=report.problem)
    kinds = ", ".join(report.stored_dtypes)
    return Check("tensors", passed=True, said=f"{report.num_tensors} tensors of the right shapes, stored as {kinds}.")


def _check_numbers(report: CheckpointReport, progress: Progress) -> tuple[bool, str]:
    for done, path in enumerate(report.files):
        progress(f"reading {path.name}", done, len(report.files))
        with open_shard(path) as shard:
            for name in sorted(shard.infos()):
                require_finite(shard.tensor(name), name, path)
    return True, "All weights are finite."


def _check_perplexity(model: ChatGLM3Model, tokenizer: ChatGLM3Tokenizer, progress: Progress) -> tuple[bool, str]:
    progress("reading a dialogue", 0, 1)
    value, guess = perplexity(model, tokenizer), tokenizer.vocab_size
    said = f"{value:.2f} over the answers of a fixed dialogue; a model that guesses has {guess}."
    if not value < guess:
        return False, f"{said} Weights, tokenizer and configuration do not belong together, or nothing was learnt."
    return True, said


@torch.inference_mode()
def perplexity(model: ChatGLM3Model, tokenizer: ChatGLM3Tokenizer) -> float:
    """Exp of the mean negative log-likelihood, in nats, of the tokens of the answers in ``DIALOGUE``.

    1 is certainty; the vocabulary's size is a uniform guess; NaN where a logit is.
    """
    ids, is_answer = _dialogue(tokenizer)
    fed = torch.tensor(ids, device=model.device)
    hidden = model(fed, torch.arange(len(ids), device=model.device), ContiguousAttention(model.prefix()))
    targets = torch.tensor(is_answer, device=model.device).nonzero().flatten()
    scores = model.logits(hidden[targets - 1]).float()
    return math.exp(min(float(torch.nn.functional.cross_entropy(scores, fed[targets])), _LARGEST_EXPONENT))


def _dialogue(tokenizer: ChatGLM3Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids of the dialogue, and which of them the model would have written."""
    ids, is_answer = prefix_ids(tokenizer), [False, False]
    for question, answer in DIALOGUE:
        asked = message_ids(tokenizer, "user", question) + assistant_ids(tokenizer)
        answered = message_ids(tokenizer, "assistant", answer)[1:]  # the role's id is the prompt's last
        ids += asked + answered
        is_answer += [False] * len(asked) + [True] * len(answered)
    return ids, is_answer


def _check_answer(model: ChatGLM3Model, tokenizer: ChatGLM3Tokenizer, progress: Progress) -> tuple[bool, str]:
    answer = _greedy(model, chat_input_ids(tokenizer, QUESTION, []), set(tokenizer.stop_ids), progress)
    text = tokenizer.decode(answer).strip()
    if not text:
        return False, f"The greedy answer to {QUESTION!r} is empty."
    return True, f"{QUESTION!r} is answered by {text!r}."


@torch.inference_mode()
def _greedy(model: ChatGLM3Model, prompt: list[int], stop_ids: set[int], progress: Progress) -> list[int]:
    """The likeliest ids after a prompt, without a stop id."""
    cache, fed, position = ContiguousAttention(model.prefix()), prompt, 0
    answer: list[int] = []
    for done in range(ANSWER_TOKENS):
        progress("answering", done, ANSWER_TOKENS)
        positions = torch.arange(position, position + len(fed), device=model.device)
        hidden = model(torch.tensor(fed, device=model.device), positions, cache)
        token = int(model.logits(hidden[-1:]).argmax())
        if token in stop_ids:
            break
        position += len(fed)
        answer.append(token)
        fed = [token]
    return answer
