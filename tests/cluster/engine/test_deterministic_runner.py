"""In deterministic mode a sequence's logits have the same bits in any company and by any chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.deterministic import TILE_TOKENS, DeterministicRunner, treats_rows_alike
from cluster.engine.runner import ModelRunner
from cluster.engine.threads import num_threads
from tests.fakes.stepping import Feed, Held, Stepper
from tests.support.random_model import SHAPE, random_model

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PROMPT = [(7 * place * place + 3) % SHAPE.padded_vocab_size for place in range(150)]


class Tapped:
    """Steps a runner over its pool and gives the logits of each step."""

    def __init__(self, runner):
        self.runner, self.seen = runner, []
        self.stepper = Stepper(runner, scatter=4)
        original = runner.logits
        runner.logits = lambda hidden: self._keep(original(hidden))

    def _keep(self, logits):
        self.seen.append(logits.clone())
        return logits

    def logits(self, *feeds):
        """Of the last token of each feed."""
        self.stepper.step(feeds)
        return self.seen.pop()

    def whole(self, ids):
        """Logits after ``ids``, computed in one step by themselves."""
        held = Held()
        [logits] = self.logits(Feed(held, ids))
        self.stepper.release(held)
        return logits


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with num_threads(1):
        yield


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def tapped(request):
    return Tapped(DeterministicRunner(random_model(request.param), num_pages=200, page_size=4))


@settings(max_examples=6)
@given(st.data())
def test_sequences_computed_together_in_chunks_have_the_bits_of_each_alone_and_whole(tapped, data):
    """Decodes and chunks of several sequences share steps and tiles."""
    lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=4))
    helds = {Held(): PROMPT[number : number + length] for number, length in enumerate(lengths)}
    while left := [held for held, ids in helds.items() if held.length < len(ids)]:
        chunks = [(held, helds[held][held.length :][: data.draw(st.sampled_from([1, 7, 60]))]) for held in left]
        feeds = sorted((Feed(held, ids) for held, ids in chunks), key=lambda feed: len(feed.token_ids) != 1)
        for feed, logits in zip(feeds, tapped.logits(*feeds), strict=True):
            assert torch.equal(logits, tapped.whole(helds[feed.held][: feed.held.length]))
    for held in helds:
        tapped.stepper.release(held)


def test_the_mode_is_close_to_the_default_one(tapped):
    """Another order of sums, the same model."""
    dtype = tapped.runner.model.dtype
    default = Tapped(ModelRunner(random_model(dtype), num_pages=60, page_size=4))
    tolerance = 2e-5 if dtype is torch.float32 else 0.15
    torch.testing.assert_close(tapped.whole(PROMPT), default.whole(PROMPT), rtol=0, atol=tolerance)


def test_the_default_mode_does_not_promise_equal_bits():
    """Were this to fail, the mode would have lost its reason on this machine."""
    default = Tapped(ModelRunner(random_model(torch.float32), num_pages=200, page_size=4))
    held = Held()
    for token_id in PROMPT[:100]:
        [logits] = default.logits(Feed(held, [token_id]))
    assert not torch.equal(logits, default.whole(PROMPT[:100]))


def test_more_threads_than_a_tile_can_be_shared_among_do_not_break_rows():
    """Three threads would cut loops inside rows; with the runner's own care they do not."""
    model = random_model(torch.float32, replace(SHAPE, ffn_hidden_size=4099))
    with num_threads(3):
        assert not treats_rows_alike(model, 4, TILE_TOKENS)
        tapped = Tapped(DeterministicRunner(model, num_pages=60, page_size=4))
        assert tapped.runner.tile_tokens == TILE_TOKENS
        assert torch.get_num_threads() == 3
        held = Held()
        for token_id in PROMPT[:20]:
            [logits] = tapped.logits(Feed(held, [token_id]))
        assert torch.equal(logits, tapped.whole(PROMPT[:20]))


def test_a_sequence_with_broken_numbers_leaves_the_bits_of_its_neighbours(tapped):
    """NaN stays in its own rows of a tile, and in the pages it leaves behind nobody sees it."""
    bad_id = SHAPE.padded_vocab_size - 1  # not in the prompt
    weight = tapped.runner.model.transformer.embedding.word_embeddings.weight
    kept = weight[bad_id].clone()
    weight[bad_id] = float("nan")
    bad, good = Held(), Held()
    broken, sound = tapped.logits(Feed(bad, [5, bad_id, 6]), Feed(good, PROMPT[:30]))
    weight[bad_id] = kept
    tapped.stepper.release(bad)
    assert broken.isnan().all()
    assert torch.equal(sound, tapped.whole(PROMPT[:30]))
    tapped.stepper.release(good)


class Unfair(torch.nn.Module):
    """A linear whose rows differ by where they stand, as a kernel's may that handles the last rows apart."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return self.linear(x) * (1 + 1e-6 * torch.arange(len(x))[:, None])


def test_where_rows_are_not_treated_alike_each_token_is_computed_alone():
    """A tile of one token has no other place to stand."""
    model = random_model(torch.float32)
    mlp = model.transformer.encoder.layers[0].mlp
    mlp.dense_4h_to_h = Unfair(mlp.dense_4h_to_h)
    tapped = Tapped(DeterministicRunner(model, num_pages=60, page_size=4))
    assert tapped.runner.tile_tokens == 1
    first, second = tapped.logits(Feed(Held(), PROMPT[:9]), Feed(Held(), PROMPT[5:40]))
    assert torch.equal(first, tapped.whole(PROMPT[:9]))
    assert torch.equal(second, tapped.whole(PROMPT[5:40]))
