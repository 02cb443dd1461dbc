"""Paged attention equals attention over plain memory, however rows are grouped and pages scattered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.attention.gather import GatherAttention, group_by_length
from cluster.engine.attention.kv_pool import KVPool, num_pages_for
from cluster.errors import ConfigurationError
from cluster.model.attention import ContiguousAttention, causal_mask
from cluster.model.config import ChatGLM3Config
from tests.fakes.stepping import Feed, Held, Stepper

CONFIG = ChatGLM3Config(
    num_layers=2, num_attention_heads=6, multi_query_group_num=2, kv_channels=8, hidden_size=48, seq_length=256
)
WIDTHS = (6, 8), (2, 2, 8)  # of a token's query and of its key and value


@dataclass
class PoolOnly:
    """What a stepper needs to know of a runner."""

    num_pages: int
    page_size: int


class Bench:
    """Steps a backend over random queries, keys and values beside a plain copy of every sequence."""

    def __init__(self, *, padding: int, page_size: int = 4) -> None:
        self.pool = KVPool(CONFIG, num_pages=200, page_size=page_size, dtype=torch.float32, device=torch.device("cpu"))
        self.backend = GatherAttention(self.pool, padding=padding)
        self.stepper = Stepper(PoolOnly(200, page_size), scatter=3)
        self.plain: dict[Held, ContiguousAttention] = {}
        self.source = torch.Generator().manual_seed(0)

    def step(self, rows: list[tuple[Held, int]]) -> None:
        """Attend ``count`` new tokens of each sequence in every layer, and compare."""
        feeds = [Feed(held, [0] * count) for held, count in rows]
        self.backend.begin(self.stepper.plan(feeds))
        counts = [count for _, count in rows]
        for layer in range(CONFIG.num_layers):
            query, key_value = (torch.randn(sum(counts), *width, generator=self.source) for width in WIDTHS)
            actual = self.backend.forward(layer, query, key_value).split(counts)
            given = zip(query.split(counts), key_value.split(counts), strict=True)
            for (held, _), context, (mine, stored) in zip(rows, actual, given, strict=True):
                expected = self.plain.setdefault(held, ContiguousAttention()).forward(layer, mine, stored)
                torch.testing.assert_close(context, expected, rtol=0, atol=2e-6)
        for held, count in rows:
            held.length += count

    def end(self, held: Held) -> None:
        self.stepper.release(held)
        del self.plain[held]


@pytest.mark.parametrize("padding", [0, 6, 10_000])
def test_any_mixture_of_rows_attends_to_its_own_tokens(padding):
    """Cold prefills, continued prefills and decodes of many lengths share steps; padding never shows."""
    bench = Bench(padding=padding)
    short, middle, long, late = Held(), Held(), Held(), Held()
    bench.step([(short, 3)])
    bench.step([(middle, 17), (long, 40)])
    bench.step([(short, 1), (long, 1), (middle, 9)])
    bench.step([(long, 1), (short, 1), (middle, 1)])
    bench.step([(middle, 1), (short, 1), (long, 1), (late, 5)])
    bench.step([(middle, 1), (late, 3), (long, 2)])
    bench.step([(late, 1)])


@settings(max_examples=25)
@given(st.data())
def test_random_schedules_attend_correctly(data):
    """Sequences come, grow by any chunks, and go; their pages are used again."""
    bench = Bench(padding=data.draw(st.sampled_from([0, 5, 10_000])), page_size=data.draw(st.sampled_from([1, 4])))
    alive: list[Held] = []
    for _ in range(data.draw(st.integers(1, 6))):
        if alive and data.draw(st.booleans()):
            bench.end(alive.pop(data.draw(st.integers(0, len(alive) - 1))))
        alive += [Held() for _ in range(data.draw(st.integers(0, 2)))]
        rows = [(held, data.draw(st.sampled_from([1, 1, 2, 7]))) for held in alive]
        if rows:
            bench.step(sorted(rows, key=lambda row: row[1] != 1))


def test_what_a_failed_sequence_left_in_a_page_does_not_reach_its_next_owner():
    """Stale NaN behind a row's end is masked, and a mask does not stop NaN."""
    bench = Bench(padding=10_000)
    bench.pool.pages[1:] = float("nan")
    long, short = Held(), Held()
    bench.step([(long, 11)])
    bench.step([(short, 2)])
    bench.step([(long, 1), (short, 1)])
    for _ in range(5):
        bench.step([(short, 1), (long, 1)])


def test_the_null_page_is_never_written():
    """Block tables are padded with page 0; it stays zero."""
    bench = Bench(padding=10_000)
    rows = [Held() for _ in range(3)]
    for count, held in enumerate(rows, 4):
        bench.step([(held, 5 * count)])
    bench.step([(held, 1) for held in rows])
    assert not bench.pool.pages[0].any()


@given(st.lists(st.integers(1, 500), max_size=30), st.integers(0, 300))
def test_groups_cover_each_row_once_and_pad_no_row_too_far(lengths, padding):
    """Every row is in one group, within ``padding`` of its group's longest."""
    groups = group_by_length(np.array(lengths, np.int32), padding)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        members = [lengths[row] for row in group]
        assert max(members) - min(members) <= padding


def test_rows_of_similar_length_keep_their_order_in_one_group():
    """The common case costs no reordering."""
    [group] = group_by_length(np.array([10, 12, 11], np.int32), 2)
    assert group.tolist() == [0, 1, 2]


def test_a_causal_mask_lets_the_last_query_see_everything():
    """Bottom-right: three queries at the end of five keys."""
    mask = causal_mask(3, 5, torch.float32, torch.device("cpu"))
    assert mask.isinf().int().tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    assert causal_mask(4, 4, torch.float32, torch.device("cpu")) is None


def test_row_numbers_reach_the_pages_they_mean():
    """Flat views of the pool and its six-dimensional shape are the same memory."""
    pool = KVPool(CONFIG, num_pages=5, page_size=4, dtype=torch.float32, device=torch.device("cpu"))
    pool.pages.copy_(torch.arange(pool.pages.numel()).view_as(pool.pages))
    tokens, halves = pool.token_rows(np.array([4 * 3 + 2], np.int64)), pool.half_rows(np.array([3]))
    for layer in range(2):
        for place in range(2):
            assert torch.equal(pool.tokens[tokens[layer, 0, place]], pool.pages[3, layer, place, 2].flatten())
            assert torch.equal(pool.halves[halves[layer, place, 0]], pool.pages[3, layer, place].flatten())


def test_memory_is_turned_into_whole_pages():
    """One page of 16 tokens takes 16 times the bytes of a token."""
    page = 16 * CONFIG.kv_bytes_per_token(torch.float32)
    assert num_pages_for(40 * page + 1, CONFIG, torch.float32, 16) == 40


def test_too_little_memory_for_one_context_says_how_much_fits():
    """The model's 256 positions need 16 pages and the null page."""
    page = 16 * CONFIG.kv_bytes_per_token(torch.float32)
    with pytest.raises(ConfigurationError, match=rf"hold 240 tokens.* at least {17 * page} bytes"):
        num_pages_for(17 * page - 1, CONFIG, torch.float32, 16)
    assert num_pages_for(17 * page, CONFIG, torch.float32, 16) == 17
