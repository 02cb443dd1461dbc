"""An answer is the same however it was computed: to the last bit in deterministic mode, but for near-ties by default.

Answers share a batch and pages of the cache, are cut into chunks, lose their pages on the way and go on elsewhere; each
is compared, draw by draw, with the one that was computed alone, at once and from an empty cache.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.deterministic import DeterministicRunner
from cluster.engine.native.runner import NativeRunner
from cluster.engine.runner import ModelRunner
from cluster.engine.threads import num_threads
from tests.support.exactness import PAGE_SIZE, POOL_PAGES, Ask, Drawn, Lab, assert_alike, assert_same, is_near_tie
from tests.support.native import native_runner
from tests.support.random_model import SHAPE, random_model

TEXTS = [[(7 * place * place + 11 * text) % SHAPE.padded_vocab_size for place in range(90)] for text in range(3)]

asks = st.builds(
    lambda text, length, tail, outputs, temperature, filters, seed, wait: Ask(
        (*TEXTS[text][:length], *tail), outputs, temperature, *filters, seed=seed, wait=wait
    ),
    text=st.integers(0, 2),
    length=st.integers(1, 70),
    tail=st.lists(st.integers(0, SHAPE.padded_vocab_size - 1), max_size=5),
    outputs=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 0.8, 1.4]),
    filters=st.sampled_from([(0, 1.0), (50, 0.8), (5, 1.0), (0, 0.9)]),
    seed=st.integers(0, 2**32),
    wait=st.integers(0, 30),
)
mixes = st.lists(asks, min_size=1, max_size=5)

# Answers that share a beginning, more than the pool holds at once: chunks, hits and preemptions all happen.
BUSY = [
    Ask(tuple(TEXTS[0][:50]), 20),
    Ask(tuple(TEXTS[0][:40] + TEXTS[1][:20]), 20, 0.8, 50, 0.8, seed=1),
    Ask(tuple(TEXTS[1][:45]), 20, 1.4, seed=2, wait=2),
    Ask(tuple(TEXTS[0][:50]), 12, 0.8, 5, seed=3, wait=40),
]
BUSY_PAGES, BUSY_BUDGET = 34, 13


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with num_threads(1):
        yield


@pytest.fixture(scope="module")
def default():
    return Lab(ModelRunner(random_model(torch.float32), num_pages=POOL_PAGES, page_size=PAGE_SIZE))


@pytest.fixture(scope="module", params=["float32", "bfloat16", "native"])
def exact(request):
    if request.param == "native":
        return Lab(native_runner(num_pages=POOL_PAGES, page_size=PAGE_SIZE, is_deterministic=True))
    dtype = getattr(torch, request.param)
    return Lab(DeterministicRunner(random_model(dtype), num_pages=POOL_PAGES, page_size=PAGE_SIZE))


def pool_for(mix, spare):
    """Pages that hold the largest answer, the null page and ``spare`` more."""
    return min(max(ask.num_pages for ask in mix) + 1 + spare, POOL_PAGES)


def compare(lab, mix, outcome):
    """Hold each answer against the one that was computed alone, by the rule of the lab's mode."""
    for ask, draws in zip(mix, outcome.draws, strict=True):
        if isinstance(lab.runner, DeterministicRunner | NativeRunner):
            assert_same(lab.alone(ask), draws)
        else:
            assert_alike(ask, lab.alone(ask), draws)


@settings(max_examples=20)
@given(mixes, st.integers(5, 80), st.integers(0, 40))
def test_answers_are_alike_by_default(default, mix, budget, spare):
    """Ids differ only from a draw on that the last bits decide; until then logits agree to rounding."""
    outcome = default.together(mix, budget=budget, num_pages=pool_for(mix, spare))
    compare(default, mix, outcome)


@settings(max_examples=15)
@given(mixes, st.integers(5, 80), st.integers(0, 40))
def test_answers_are_equal_to_the_last_bit_in_deterministic_mode(exact, mix, budget, spare):
    """Ids and the logits of every draw."""
    outcome = exact.together(mix, budget=budget, num_pages=pool_for(mix, spare))
    compare(exact, mix, outcome)


def test_a_busy_engine_is_exact_in_deterministic_mode(exact):
    """Chunks, hits and preemptions did happen."""
    outcome = exact.together(BUSY, budget=BUSY_BUDGET, num_pages=BUSY_PAGES)
    assert min(outcome.chunks, outcome.stats.cached_tokens, outcome.stats.preemptions) > 0
    compare(exact, BUSY, outcome)


def test_two_threads_are_as_exact_as_one():
    """They may give other bits than one, but the same every time."""
    with num_threads(2):
        lab = Lab(DeterministicRunner(random_model(torch.float32), num_pages=POOL_PAGES, page_size=PAGE_SIZE))
        mix = [Ask(tuple(TEXTS[0][:30]), 3), Ask(tuple(TEXTS[1][:20]), 3, 0.8, 50, 0.8)]
        compare(lab, mix, lab.together(mix, budget=BUSY_BUDGET, num_pages=BUSY_PAGES))


def test_a_busy_engine_answers_alike_by_default(default):
    """Chunks, hits and preemptions did happen."""
    outcome = default.together(BUSY, budget=BUSY_BUDGET, num_pages=BUSY_PAGES)
    assert min(outcome.chunks, outcome.stats.cached_tokens, outcome.stats.preemptions) > 0
    compare(default, BUSY, outcome)


@pytest.mark.parametrize("kept", [1, 7, 19])
def test_an_answer_that_moved_goes_on_with_the_same_bits(exact, kept):
    """Ids that another engine drew are computed as part of the prompt."""
    for ask in BUSY[:2]:
        whole = exact.alone(ask)
        moved = replace(ask, forced=tuple(drawn.token_id for drawn in whole[:kept]))
        [draws] = exact.together([moved], budget=9, num_pages=POOL_PAGES).draws
        assert_same(whole[kept:], draws)


# -- that the comparisons would find a bug ----------------------------------------------------------------------------


def shifted_positions(plan):
    """Chunks after the first begin one position too early."""
    positions, starts = plan.positions.copy(), plan.kv_lens - np.diff(plan.cu_q)
    for row in np.flatnonzero((starts > 0) & (np.diff(plan.cu_q) > 1)):
        positions[plan.cu_q[row] : plan.cu_q[row + 1]] -= 1
    return replace(plan, positions=positions)


def lost_writes(plan):
    """The last key and value of a chunk are not stored: the page keeps what its last owner left."""
    slots = plan.slots.copy()
    slots[plan.cu_q[1:][np.diff(plan.cu_q) > 1] - 1] = 0
    return replace(plan, slots=slots)


def stale_pages(plan):
    """Whoever found pages in the cache, or decodes, sees another page in place of its second."""
    tables = plan.block_tables.copy()
    for row in np.flatnonzero(plan.kv_lens - np.diff(plan.cu_q) >= 2 * PAGE_SIZE):
        tables[row, 1] = tables[row, 0]
    return replace(plan, block_tables=tables)


def short_sight(plan):
    """Decodes do not see their own token."""
    lengths = plan.kv_lens.copy()
    lengths[: plan.num_decodes] -= lengths[: plan.num_decodes] > 1
    return replace(plan, kv_lens=lengths)


BUGS = [shifted_positions, lost_writes, stale_pages, short_sight]


@pytest.mark.parametrize("bug", BUGS)
def test_bugs_are_found_in_deterministic_mode(exact, bug):
    """Each of them changes some answer's bits."""
    outcome = exact.together(BUSY, budget=BUSY_BUDGET, num_pages=BUSY_PAGES, bug=bug)
    with pytest.raises(AssertionError):
        compare(exact, BUSY, outcome)


@pytest.mark.parametrize("bug", BUGS)
def test_bugs_do_not_pass_for_near_ties(default, bug):
    """Each of them changes logits by more than rounding, or ids where no near-tie excuses it."""
    outcome = default.together(BUSY, budget=BUSY_BUDGET, num_pages=BUSY_PAGES, bug=bug)
    with pytest.raises(AssertionError):
        compare(default, BUSY, outcome)


@pytest.mark.parametrize(
    ("ask", "logits", "uniform", "expected"),
    [
        (Ask((1,)), [0.0, 3.0, 2.99995], 0.5, True),
        (Ask((1,)), [0.0, 3.0, 2.9998], 0.5, False),
        (Ask((1,), temperature=1.0), [0.0, 0.0], 0.500009, True),
        (Ask((1,), temperature=1.0), [0.0, 0.0], 0.50002, False),
        (Ask((1,), temperature=1.0), [3.0, 2.99999, -9.0], 0.3, False),
        (Ask((1,), temperature=1.0, top_k=2), [0.0, 5.0, 5.0, 0.0], 0.5, True),
        (Ask((1,), temperature=1.0, top_p=0.5), [0.0, 5.0, 0.0], 0.4, False),
    ],
)
def test_near_ties_are_near(ask, logits, uniform, expected):
    """Two best within 1e-4 where the best is taken; a uniform within 1e-5 of an edge where it is drawn."""
    assert is_near_tie(ask, Drawn(0, torch.tensor(logits), uniform)) is expected


def test_log_probabilities_have_the_same_bits_too(exact):
    """What is told of a draw does not depend on who else draws."""
    mix = [replace(ask, logprobs=2 + number) for number, ask in enumerate(BUSY[:3])]
    outcome = exact.together(mix, budget=BUSY_BUDGET, num_pages=BUSY_PAGES)
    for ask, told in zip(mix, outcome.logprobs, strict=True):
        assert len(told) == ask.outputs
        assert told == exact.together([ask], budget=200, num_pages=POOL_PAGES).logprobs[0]
