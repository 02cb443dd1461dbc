"""What the published model was recorded to compute; see tests/parity/data. Tensors and cases by name."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cluster.engine.runner import ModelRunner
from cluster.model.loader import load_model
from tests.fakes.stepping import Feed, Held, Stepper

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-4  # float32; the recording's own noise is below 2e-5
MODELS = {"tiny": "logits_tiny", "tiny-32k": "logits_tiny_32k"}


def load_json(name: str) -> Any:
    """A recorded file of cases."""
    return json.loads((DATA / "goldens" / f"{name}.json").read_text(encoding="utf-8"))


@cache
def load_tensors(name: str) -> dict[str, Tensor]:
    """A recorded file of tensors."""
    return load_file(DATA / "goldens" / f"{name}.safetensors")


def logits_cases(kind: str) -> list[tuple[str, dict[str, Any], Tensor]]:
    """(checkpoint, case, expected logits) of one kind, over both checkpoints."""
    found = [
        (model, case, load_tensors(name)[case["key"]])
        for model, name in MODELS.items()
        for case in load_json(name)["cases"]
        if case["kind"] == kind
    ]
    assert found, kind
    return found


def stepper(model: str, dtype: torch.dtype = torch.float32, *, page_size: int = 4, num_pages: int = 128) -> Stepper:
    """A fresh runner over a recorded checkpoint. Small scattered pages, so that paging mistakes show."""
    runner = ModelRunner(load_model(DATA / model, dtype, "cpu"), num_pages=num_pages, page_size=page_size)
    return Stepper(runner, scatter=1)


def logits_of(steps: Stepper, feeds: list[Feed]) -> Tensor:
    """Logits [T, V] of every token of one step, computed through the paged cache as serving does."""
    runner = steps.runner
    assert isinstance(runner, ModelRunner)
    hidden = runner.forward(steps.plan(feeds))
    for feed in feeds:
        feed.held.length += len(feed.token_ids)
    with torch.inference_mode():
        return runner.model.logits(hidden).float()


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Equal within an absolute tolerance, with the largest difference in the message."""
    torch.testing.assert_close(actual, expected.float(), rtol=0.0, atol=tolerance)


def greedy(steps: Stepper, prompt: list[int], stop_ids: set[int], max_tokens: int) -> list[int]:
    """Ids after the prompt, the stop id included, as a client of the engine would get them one step at a time."""
    held, fed, answer = Held(), prompt, []
    while len(answer) < max_tokens:
        answer.append(int(steps.step([Feed(held, fed)]).token_ids[0]))
        fed = answer[-1:]
        if fed[0] in stop_ids:
            break
    return answer
