"""The C step computes what the torch runner computes, and to the last bit whatever else is in a step."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cluster.engine.native import library
from cluster.engine.native.runner import NativeRunner, can_run
from cluster.engine.runner import ModelRunner
from cluster.engine.sampling.sample import Scan
from cluster.errors import ConfigurationError
from cluster.model.config import ChatGLM3Config
from tests.fakes.stepping import Feed, Held, Stepper
from tests.support.native import native_runner, require_native
from tests.support.random_model import SHAPE, random_model

PAGES, PAGE_SIZE = 80, 4
PROMPTS = [[(31 * text + 7 * place * place) % SHAPE.padded_vocab_size for place in range(60)] for text in range(3)]
NEVER_FINITE = 299

shapes = st.builds(
    lambda dim, heads, groups, layers, inner, vocab, bias, page: (
        ChatGLM3Config(
            num_layers=layers,
            hidden_size=heads * groups * 16,
            num_attention_heads=heads * groups,
            kv_channels=dim,
            multi_query_group_num=groups,
            ffn_hidden_size=2 * inner,
            padded_vocab_size=vocab,
            seq_length=256,
            add_qkv_bias=bias,
            add_bias_linear=bias,
        ),
        page,
    ),
    dim=st.sampled_from([16, 32, 48, 64, 128, 256]),
    heads=st.sampled_from([1, 2, 3, 16]),
    groups=st.sampled_from([1, 2]),
    layers=st.integers(1, 2),
    inner=st.integers(1, 90),
    vocab=st.integers(300, 420),
    bias=st.booleans(),
    page=st.sampled_from([1, 4, 16, 24]),
)
lengths = st.lists(st.integers(1, 150), min_size=1, max_size=20)


def exact_runner(model, **options):
    """The torch runner in float32 over weights that are bfloat16's."""
    exact = random_model(torch.float32, model.config)
    for (name, _), rounded in zip(list(exact.named_parameters()), model.parameters(), strict=True):
        owner, _, leaf = name.rpartition(".")
        setattr(exact.get_submodule(owner), leaf, nn.Parameter(rounded.float(), requires_grad=False))
    exact.rotary = model.rotary
    return ModelRunner(exact, **options)


def compute(stepper, feeds):
    """Float32 scores [S, V] of a step of these feeds."""
    plan = stepper.plan(feeds)
    for feed in feeds:
        feed.held.length += len(feed.token_ids)
    return scores_of(stepper.runner, plan)


def scores_of(runner, plan):
    """Float32 scores [S, V] of a step."""
    if isinstance(runner, NativeRunner):
        return runner.scores(plan, Scan.empty(len(plan.sampling.rows))).clone()
    with torch.inference_mode():
        last = torch.from_numpy(plan.cu_q[plan.sampling.rows + 1] - 1)
        return runner.logits(runner.forward(plan).index_select(0, last)).float()


def ids_of(count, offset, vocab):
    return [(5 + 17 * place + 101 * offset) % vocab for place in range(count)]


def test_the_extension_was_built():
    """Without it everything here would be skipped, and nobody would know."""
    assert find_spec(library.EXTENSION) is not None


@settings(max_examples=25)
@given(shapes, lengths, lengths)
def test_scores_are_those_of_float32_but_for_the_rounding_of_products(shape_and_page, first, then):
    """Prompts of any length, then more tokens behind them, over models of any shape it takes."""
    require_native()
    shape, page_size = shape_and_page
    rows = min(len(first), len(then))
    first, then = sorted(first[:rows]), sorted(n % 30 + 1 for n in then[:rows])
    size = {"num_pages": 1 + rows * -(-180 // page_size), "page_size": page_size}
    model = random_model(torch.bfloat16, shape)
    steppers = [Stepper(exact_runner(model, **size)), Stepper(NativeRunner(model, **size, threads=2))]
    helds = [[Held() for _ in range(rows)] for _ in steppers]
    for counts in (first, then):
        ids = [ids_of(n, i, shape.padded_vocab_size) for i, n in enumerate(counts)]
        expected, actual = (
            compute(stepper, list(map(Feed, mine, ids))) for stepper, mine in zip(steppers, helds, strict=True)
        )
        difference, scale = (actual - expected).abs(), max(1.0, float(expected.std()))
        assert difference.max() < 0.3 * scale  # a key, a pair or a page mistaken for another one makes it 1
        assert difference.mean() < 0.05 * scale


def test_it_is_closer_to_float32_than_operations_that_each_round():
    """The torch runner in bfloat16 is the measure."""
    require_native()
    model = random_model(torch.bfloat16)
    size = {"num_pages": PAGES, "page_size": PAGE_SIZE}
    runners = [exact_runner(model, **size), ModelRunner(random_model(torch.bfloat16), **size), native_runner(**size)]
    exact, rounded, native = (
        compute(Stepper(runner), [Feed(Held(), prompt) for prompt in PROMPTS]) for runner in runners
    )
    assert (native - exact).std() < (rounded - exact).std()


@pytest.fixture(scope="module")
def native():
    return native_runner(num_pages=PAGES, page_size=PAGE_SIZE)


def alone(runner, prompt):
    """Scores of a prompt in one step, with nobody beside it."""
    return compute(Stepper(runner), [Feed(Held(), prompt)])[0]


@settings(max_examples=30)
@given(cuts=st.sets(st.integers(1, 59), max_size=8))
def test_any_chunking_gives_the_same_bits(native, cuts):
    """Token by token and all at once are alike too."""
    stepper, held, begin = Stepper(native), Held(), 0
    for end in (*sorted(cuts), 60):
        scores = compute(stepper, [Feed(held, PROMPTS[0][begin:end])])
        begin = end
    assert torch.equal(alone(native, PROMPTS[0]), scores[0])


@settings(max_examples=30)
@given(company=st.lists(st.integers(1, 60), max_size=17), place=st.integers(0, 17))
def test_any_company_leaves_the_bits_alone(native, company, place):
    """However many rows there are, before and behind."""
    lengths = sorted(company)  # a plan's rows of one token come first
    stepper = Stepper(native_runner(num_pages=18 * 15 + 1, page_size=PAGE_SIZE))
    mine = min(place, len(lengths))
    while mine < len(lengths) and lengths[mine] == 1:
        mine += 1
    prompts = [PROMPTS[1][:n] for n in lengths]
    prompts.insert(mine, PROMPTS[0])
    scores = compute(stepper, [Feed(Held(), prompt) for prompt in prompts])
    assert torch.equal(alone(native, PROMPTS[0]), scores[mine])


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_do_not_change_a_bit(native, threads):
    """More of them than cores as well."""
    runner = native_runner(num_pages=PAGES, page_size=PAGE_SIZE, threads=threads)
    assert torch.equal(alone(native, PROMPTS[2]), alone(runner, PROMPTS[2]))


def test_a_row_that_broke_is_told_and_spoils_nobody():
    """Not even the next owner of the pages in which it left its NaN."""
    model = random_model(torch.bfloat16)
    model.transformer.embedding.word_embeddings.weight[NEVER_FINITE] = float("nan")
    require_native()
    runner = NativeRunner(model, num_pages=20, page_size=PAGE_SIZE, threads=2)
    stepper, broken = Stepper(runner), Held()
    fine = stepper.step([Feed(Held(), PROMPTS[0][:9])]).token_ids[0]
    result = stepper.step([Feed(Held(), PROMPTS[0][:9]), Feed(broken, [1, 2, NEVER_FINITE, 4, 5, 6])])
    assert result.finite.tolist() == [True, False]
    assert fine == result.token_ids[0]
    stepper.release(broken)
    for _ in range(3):  # whoever gets the pages, page by page
        result = stepper.step([Feed(Held(), PROMPTS[0][:9])])
        assert (True, fine) == (result.finite[0], result.token_ids[0])


def test_greedy_rows_get_the_first_of_equal_scores(native):
    """As argmax, which the torch runner asks."""
    stepper = Stepper(native)
    plan = stepper.plan([Feed(Held(), prompt[:n]) for n, prompt in enumerate(PROMPTS, 20)])
    scan = Scan.empty(3)
    scores = native.scores(plan, scan)
    assert scores.argmax(-1).tolist() == scan.best.tolist()
    assert np.all(scan.is_finite)


def test_a_step_without_draws_computes_no_scores(native):
    """Middle chunks of long prompts cost no logits."""
    result = Stepper(native).step([Feed(Held(), PROMPTS[0], draw=False)])
    assert len(result.token_ids) == len(result.finite) == 0


def test_what_it_cannot_compute_is_left_to_torch():
    """Other dtypes, heads that are no whole vectors, and linears that are no plain ones."""
    require_native()
    assert can_run(random_model(torch.bfloat16))
    assert not can_run(random_model(torch.float32))
    odd = ChatGLM3Config(
        num_layers=1, hidden_size=64, num_attention_heads=8, kv_channels=8, ffn_hidden_size=64, padded_vocab_size=300
    )
    assert not can_run(random_model(torch.bfloat16, odd))
    adapted = random_model(torch.bfloat16)
    adapted.transformer.encoder.layers[0].mlp.dense_4h_to_h = nn.Identity()
    assert not can_run(adapted)


@pytest.mark.parametrize(("num_pages", "page_size"), [(1, 4), (4, 0), (1 << 40, 16)])
def test_a_pool_that_cannot_be_is_refused(num_pages, page_size):
    """Before any weight is packed."""
    with pytest.raises(ConfigurationError):
        native_runner(num_pages=num_pages, page_size=page_size)
