"""A step computes each row as if it were alone, and says which rows' numbers broke."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.runner import ModelRunner
from cluster.errors import ConfigurationError
from cluster.model.loader import load_model
from tests.fakes.stepping import Feed, Held, Stepper

TINY = Path(__file__).parents[2] / "parity" / "data" / "tiny"
PROMPT = [821, 823, 826, 585, 13, 490, 330, 591, 606, 518, 516, 399, 639, 827]
NEVER_FINITE = 700  # its embedding is set to NaN in the tests that need a failing sequence


@pytest.fixture(scope="module")
def runner():
    model = load_model(TINY, torch.float32, "cpu")
    model.transformer.embedding.word_embeddings.weight[NEVER_FINITE] = float("nan")
    return ModelRunner(model, num_pages=64, page_size=4)


def answer(stepper, prompt, count):
    """Greedy ids, alone in every step."""
    held, fed, ids = Held(), prompt, []
    for _ in range(count):
        fed = stepper.step([Feed(held, fed)]).token_ids.tolist()
        ids += fed
    stepper.release(held)
    return ids


def test_only_drawing_rows_have_results_in_their_order(runner):
    """A prefill that is not finished draws nothing; the others are aligned with the plan."""
    stepper = Stepper(runner)
    first, second, third = Held(), Held(), Held()
    expected = [answer(stepper, PROMPT, 1)[0], answer(stepper, PROMPT[:6], 1)[0]]
    feeds = [Feed(first, PROMPT), Feed(second, PROMPT[:9], draw=False), Feed(third, PROMPT[:6])]
    result = stepper.step(feeds)
    assert expected == result.token_ids.tolist()
    assert result.token_ids.dtype == "int32"
    assert result.finite.tolist() == [True, True]


def test_a_step_without_draws_returns_nothing(runner):
    """Middle chunks of long prompts cost no logits."""
    result = Stepper(runner).step([Feed(Held(), PROMPT, draw=False)])
    assert len(result.token_ids) == len(result.finite) == 0


@settings(max_examples=20)
@given(cuts=st.sets(st.integers(1, len(PROMPT) - 1), max_size=6))
def test_any_chunking_of_a_prompt_gives_the_same_answer(runner, cuts):
    """Chunk borders may fall inside pages."""
    stepper, held = Stepper(runner, scatter=2), Held()
    borders = [0, *sorted(cuts), len(PROMPT)]
    for start, stop in itertools.pairwise(borders):
        result = stepper.step([Feed(held, PROMPT[start:stop])])
    assert answer(Stepper(runner), PROMPT, 1) == result.token_ids.tolist()


def test_pages_of_a_common_prefix_may_be_shared(runner):
    """A second sequence starts on another's full pages and computes only the rest."""
    stepper = Stepper(runner)
    first = Held()
    stepper.step([Feed(first, PROMPT)])
    shared = Held(pages=first.pages[:3], length=12)
    result = stepper.step([Feed(shared, PROMPT[12:])])
    assert answer(Stepper(runner, scatter=9), PROMPT, 1) == result.token_ids.tolist()


def test_a_sequence_with_broken_numbers_is_marked_and_its_neighbours_go_on(runner):
    """NaN stays in its row, and in its row's pages when others take them over."""
    stepper = Stepper(runner)
    expected = answer(stepper, PROMPT, 4)
    good, bad, ids = Held(), Held(), []
    result = stepper.step([Feed(bad, [821, NEVER_FINITE, 823]), Feed(good, PROMPT)])
    assert result.finite.tolist() == [False, True]
    ids.append(int(result.token_ids[1]))
    for _ in range(3):
        result = stepper.step([Feed(bad, [5]), Feed(good, ids[-1:])])
        assert result.finite.tolist() == [False, True]
        ids.append(int(result.token_ids[1]))
    assert expected == ids
    stepper.release(bad)
    heirs = [Held(), Held()]
    stepper.step([Feed(heirs[0], PROMPT), Feed(heirs[1], PROMPT[:2])])
    assert stepper.step([Feed(heirs[0], expected[:1]), Feed(heirs[1], [5])]).finite.all()


def test_a_draw_does_not_depend_on_the_cache_or_on_batch_mates(runner):
    """Sequences that decode together from the cache draw what each draws alone and cold."""
    stepper = Stepper(runner)
    helds = [Held() for _ in range(5)]
    stepper.step([Feed(held, PROMPT[: 4 + row]) for row, held in enumerate(helds)])
    feeds = [Feed(held, [7], temperature=0.9, top_k=50, top_p=0.9, uniform=0.3) for held in helds]
    together = stepper.step(feeds).token_ids.tolist()
    for row, token in enumerate(together):
        held = Held()
        feed = Feed(held, [*PROMPT[: 4 + row], 7], temperature=0.9, top_k=50, top_p=0.9, uniform=0.3)
        assert [token] == stepper.step([feed]).token_ids.tolist()


@pytest.mark.parametrize(("num_pages", "page_size"), [(1, 4), (8, 0)])
def test_a_pool_that_holds_nothing_is_refused(num_pages, page_size):
    """Page 0 alone, or pages without tokens, cannot serve."""
    with pytest.raises(ConfigurationError, match="KV pool"):
        ModelRunner(load_model(TINY, torch.float32, "cpu"), num_pages=num_pages, page_size=page_size)


def test_a_pool_beyond_the_machine_is_refused_with_its_size():
    """The message says how many bytes were asked for."""
    with pytest.raises(ConfigurationError, match=r"takes \d+ bytes"):
        ModelRunner(load_model(TINY, torch.float32, "cpu"), num_pages=1 << 40, page_size=16)
