"""The 128k variant (``rope_ratio`` 500, ``seq_length`` 131072): its frequencies, and answers at its last positions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from cluster.errors import ContextLengthExceededError
from cluster.model import ChatGLM3ForConditionalGeneration
from cluster.model.attention import ContiguousAttention
from cluster.model.rotary import rotary_table
from cluster.model.writing import write_config
from tests.parity.recorded import assert_close
from tests.support.random_model import SHAPE, random_model

LONG = replace(SHAPE, rope_ratio=500.0, seq_length=131072, torch_dtype="float32")
IDS = [7, 260, 99, 13, 5, 280, 41]
NEW = 5
FIRST = LONG.seq_length - len(IDS) - NEW  # where prompt and answer end with the context


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The library's model of a checkpoint folder."""
    folder = tmp_path_factory.mktemp("long")
    write_config(folder, LONG, "long")
    save_file(dict(random_model(torch.float32, LONG).named_parameters()), folder / "model.safetensors")
    return ChatGLM3ForConditionalGeneration.from_pretrained(folder)


def positions(first, count):
    return torch.arange(first, first + count)


@torch.inference_mode()
def plain(shape, first, new):
    """Logits [T, V] of the ids from a position on, and the likeliest ids behind them, from the serving module."""
    served, cache = random_model(torch.float32, shape), ContiguousAttention(None)
    logits = served.logits(served(torch.tensor(IDS), positions(first, len(IDS)), cache))
    answer = [int(logits[-1].argmax())]
    while len(answer) < new:
        at = torch.tensor([first + len(IDS) + len(answer) - 1])
        answer.append(int(served.logits(served(torch.tensor(answer[-1:]), at, cache)).argmax()))
    return logits, answer


def test_the_ratio_multiplies_the_base_and_leaves_positions_alone():
    """theta_j = (10000 * 500) ** (-2j / n), angles in float32, at the first positions and at the last."""
    table = rotary_table(LONG.seq_length, 128, LONG.rope_ratio, torch.float32, torch.device("cpu"))
    assert table.shape == (131072, 32)
    for position in (1, 2, 8191, 32768, 131071):
        for j in (0, 1, 7, 31):
            theta = torch.tensor(5e6 ** (-2 * j / 64), dtype=torch.float32)
            angle = float(theta * position)
            reach = 1e-6 + position * float(theta) * 2e-7  # one rounding of theta
            assert abs(complex(table[position, j]) - complex(math.cos(angle), math.sin(angle))) < reach


def test_logits_at_the_last_positions_are_the_plain_ones(model):
    """And those of another ratio are not."""
    first = LONG.seq_length - len(IDS)
    with torch.inference_mode():
        logits = model(torch.tensor([IDS]), position_ids=positions(first, len(IDS))[None]).logits[0]
    assert_close(logits, plain(LONG, first, 1)[0], 1e-4)
    assert (logits - plain(replace(LONG, rope_ratio=50.0), first, 1)[0]).abs().max() > 1e-2


def test_an_answer_may_reach_the_last_position(model):
    """Greedy, token by token; one position further is refused before the first token, however the limit is given."""
    given = {"position_ids": positions(FIRST, len(IDS))[None], "max_new_tokens": NEW, "eos_token_id": []}
    *_, ids = model.stream_generate(torch.tensor([IDS]), **given)
    assert ids[0, len(IDS) :].tolist() == plain(LONG, FIRST, NEW)[1]
    endless = {"position_ids": given["position_ids"], "eos_token_id": []}
    *_, unlimited = model.stream_generate(torch.tensor([IDS]), **endless)
    assert torch.equal(unlimited, ids)
    with pytest.raises(ContextLengthExceededError):
        next(model.stream_generate(torch.tensor([IDS]), **given | {"max_new_tokens": NEW + 1}))
    with pytest.raises(ContextLengthExceededError):
        model(torch.tensor([IDS]), position_ids=positions(LONG.seq_length - len(IDS) + 1, len(IDS))[None])
