"""Tiled attention equals attention over plain memory, and to the last bit itself in any other company."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.attention.kv_pool import KVPool
from cluster.engine.attention.tiled import TiledAttention
from cluster.engine.threads import num_threads
from cluster.engine.tiles import tiles_of
from cluster.model.attention import ContiguousAttention
from cluster.model.config import ChatGLM3Config
from tests.fakes.stepping import Feed, Held, Stepper

CONFIG = ChatGLM3Config(
    num_layers=2, num_attention_heads=6, multi_query_group_num=2, kv_channels=8, hidden_size=48, seq_length=1024
)
LAYER = 1
TILE = 16


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with num_threads(1):
        yield


class Sequence:
    """Random queries, keys and values of one sequence, the same for equal numbers."""

    def __init__(self, number, length, dtype=torch.float32):
        source = torch.Generator().manual_seed(number)
        self.held = Held()
        self.query = torch.randn(length, 6, 8, generator=source).to(dtype)
        self.key_value = torch.randn(length, 2, 2, 8, generator=source).to(dtype)
        self.context = torch.empty(0, 48, dtype=dtype)


class Bench:
    """Attends in tiles over one pool, whose pages hold NaN before they are written."""

    def __init__(self, *, page_size=4, dtype=torch.float32, scatter=0):
        num_pages = 2400 // page_size
        self.pool = KVPool(CONFIG, num_pages=num_pages, page_size=page_size, dtype=dtype, device=torch.device("cpu"))
        self.pool.pages[1:] = float("nan")
        self.attention = TiledAttention(self.pool)
        self.stepper = Stepper(SimpleNamespace(num_pages=num_pages, page_size=page_size), scatter=scatter)

    def step(self, *rows):
        """Attend the next ``count`` tokens of each sequence; keeps their contexts."""
        plan = self.stepper.plan([Feed(seq.held, [0] * count) for seq, count in rows])
        query, key_value = (
            torch.cat([self._next(seq, count, of) for seq, count in rows]) for of in ("query", "key_value")
        )
        contexts = []
        for tile in tiles_of(plan, TILE):
            self.attention.begin(tile)
            mine, query = query[: tile.count], query[tile.count :]
            stored, key_value = key_value[: tile.count], key_value[tile.count :]
            contexts.append(self.attention.forward(LAYER, _padded(mine), _padded(stored))[: tile.count])
        for (seq, count), context in zip(rows, torch.cat(contexts).split([count for _, count in rows]), strict=True):
            seq.context = torch.cat([seq.context, context])
            seq.held.length += count

    @staticmethod
    def _next(seq, count, of):
        return getattr(seq, of)[seq.held.length : seq.held.length + count]


def _padded(values):
    return torch.cat([values, torch.zeros(TILE - len(values), *values.shape[1:], dtype=values.dtype)])


def alone(number, length, **kinds):
    """The contexts of a sequence computed in one step, with nobody beside it."""
    seq, bench = Sequence(number, length, kinds.get("dtype", torch.float32)), Bench(**kinds)
    bench.step((seq, length))
    return seq.context


@pytest.mark.parametrize("length", [1, 16, 127, 128, 129, 300])
def test_a_sequence_attends_to_all_its_tokens(length):
    """As plain attention does, on both sides of the blocks' borders."""
    seq = Sequence(3, length)
    expected = ContiguousAttention().forward(LAYER, seq.query, seq.key_value)
    torch.testing.assert_close(alone(3, length), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    """The context is the float32 one of the rounded inputs."""
    seq = Sequence(3, 200, dtype)
    exact = ContiguousAttention().forward(LAYER, seq.query.float(), seq.key_value.float())
    torch.testing.assert_close(alone(3, 200, dtype=dtype), exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


@settings(max_examples=8)
@given(st.data())
def test_company_and_chunks_leave_no_trace(data):
    """Sequences that grow together, by any chunks, have the bits that each has alone and at once."""
    kinds = {
        "page_size": data.draw(st.sampled_from([4, 16])),
        "dtype": data.draw(st.sampled_from([torch.float32, torch.bfloat16])),
    }
    bench = Bench(**kinds, scatter=5)
    lengths = data.draw(st.lists(st.sampled_from([1, 5, 17, 40, 150, 290]), min_size=1, max_size=3))
    seqs = [Sequence(number, length, kinds["dtype"]) for number, length in enumerate(lengths)]
    while waiting := [seq for seq in seqs if len(seq.context) < len(seq.query)]:
        rows = [
            (seq, min(len(seq.query) - seq.held.length, data.draw(st.sampled_from([1, 19, 200])))) for seq in waiting
        ]
        bench.step(*sorted(rows, key=lambda row: row[1] != 1))
    for number, seq in enumerate(seqs):
        assert torch.equal(seq.context, alone(number, len(seq.query), **kinds))


def test_padding_is_not_stored():
    """The null page stays zero, whatever padding computes."""
    bench = Bench()
    bench.step((Sequence(1, 5), 5))
    assert not bench.pool.pages[0].any()
