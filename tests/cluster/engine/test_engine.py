"""Answers have the same ids however they were computed, and a failure stays with its own sequence."""

from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.engine import TENANTS_EVERY_S
from cluster.engine.tenant_use import TenantUse
from cluster.protocol import FinishReason, GenerateRequest
from tests.fakes.engine_driver import CONFIG, NAN_TOKEN, EngineDriver, make_request
from tests.fakes.fake_runner import expected_output

requests = st.builds(
    lambda prompt, output, seed, temperature: make_request(
        1, prompt, max_new_tokens=output, seed=seed, temperature=temperature
    ),
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    output=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
    temperature=st.sampled_from([0.0, 0.8]),
)


def renamed(request: GenerateRequest, attempt: int, output_ids: list[int] | None = None) -> GenerateRequest:
    return make_request(
        attempt,
        request.prompt_ids,
        output_ids=output_ids,
        max_new_tokens=request.sampling.max_new_tokens,
        seed=request.sampling.seed,
        temperature=request.sampling.temperature,
    )


@settings(max_examples=40)
@given(requests)
def test_cached_equals_fresh(request_: GenerateRequest) -> None:
    """The second run of a request, out of the cache, gives the same ids as the first."""
    driver = EngineDriver()
    (fresh,) = driver.run(request_)
    (cached,) = driver.run(renamed(request_, 2))
    assert cached == fresh == expected_output(request_)
    assert driver.finishes[2].usage.cached_tokens == (len(request_.prompt_ids) - 1) // 4 * 4


@settings(max_examples=40)
@given(requests, st.integers(5, 20))
def test_chunked_equals_whole(request_: GenerateRequest, budget: int) -> None:
    """The chunks in which a prompt was computed leave no trace."""
    whole = EngineDriver(replace(CONFIG, max_batched_tokens=96)).run(request_)
    assert EngineDriver(replace(CONFIG, max_batched_tokens=budget)).run(request_) == whole


@settings(max_examples=40)
@given(st.lists(requests, min_size=2, max_size=6))
def test_batched_equals_solo(several: list[GenerateRequest]) -> None:
    """The company in a batch does not change an answer."""
    batch = [renamed(request, i) for i, request in enumerate(several)]
    solo = [EngineDriver().run(request)[0] for request in batch]
    assert EngineDriver().run(*batch) == solo


def test_preempted_equals_undisturbed() -> None:
    """An answer that lost its pages on the way has the ids it would have had."""
    batch = [make_request(i, [i] * 8, max_new_tokens=40, seed=i) for i in range(4)]
    driver = EngineDriver(num_pages=16)
    assert driver.run(*batch) == [EngineDriver().run(request)[0] for request in batch]
    assert driver.engine.stats().preemptions > 0


@settings(max_examples=40)
@given(requests, st.data())
def test_resumed_equals_undisturbed(request_: GenerateRequest, data: st.DataObject) -> None:
    """An answer that goes on elsewhere after some ids is the answer that was never moved."""
    (whole,) = EngineDriver().run(request_)
    kept = data.draw(st.integers(0, len(whole)))
    driver = EngineDriver()
    assert driver.run(renamed(request_, 2, output_ids=whole[:kept])) == [whole]
    assert driver.finishes[2].total == len(whole)


def test_resumed_request_counts_cached_tokens_of_its_prompt_only() -> None:
    """Forced output ids that are found in the cache are no cached prompt tokens."""
    driver = EngineDriver()
    request = make_request(1, list(range(10)), max_new_tokens=20)
    (whole,) = driver.run(request)
    driver.run(renamed(request, 2, output_ids=whole[:12]))
    assert driver.finishes[2].usage.cached_tokens == 10
    assert driver.engine.stats().cached_tokens == 10


@settings(max_examples=40)
@given(requests, st.lists(st.integers(4, 9), min_size=1, max_size=12))
def test_next_turn_finds_all_earlier_tokens_but_one_page(request_: GenerateRequest, message: list[int]) -> None:
    """A turn that goes on from prompt and output finds both, except at most one page."""
    driver = EngineDriver()
    (ids,) = driver.run(request_)
    earlier = request_.prompt_ids + ids
    if len(earlier) + len(message) < 90:
        driver.run(make_request(2, earlier + message, max_new_tokens=2))
        assert driver.finishes[2].usage.cached_tokens >= len(earlier) - 4


def test_conversation_of_six_turns_keeps_its_cache() -> None:
    """Every turn finds all earlier tokens except at most one page."""
    driver = EngineDriver()
    earlier: list[int] = []
    for turn in range(6):
        prompt = [*earlier, *range(7)]
        (ids,) = driver.run(make_request(turn, prompt, max_new_tokens=9, seed=turn))
        assert driver.finishes[turn].usage.cached_tokens >= len(earlier) - 4
        earlier = prompt + ids


def test_tenants_do_not_find_each_others_pages() -> None:
    """The same prompt of another tenant is computed anew."""
    driver = EngineDriver()
    driver.run(make_request(1, list(range(20)), tenant="a"), make_request(2, list(range(20)), tenant="b"))
    driver.run(make_request(3, list(range(20)), tenant="c"))
    assert [driver.finishes[i].usage.cached_tokens for i in (1, 2, 3)] == [0, 0, 0]


def test_all_pages_are_free_after_the_cache_is_cleared() -> None:
    """When everything has ended and the cache is cleared, the whole pool is free."""
    driver = EngineDriver()
    driver.run(*[make_request(i, [i] * (3 * i + 1)) for i in range(8)])
    driver.engine.scheduler.blocks.clear_cache()
    stats = driver.engine.stats()
    assert (stats.pages_active, stats.pages_cached) == (0, 0)
    assert driver.engine.scheduler.blocks.num_available == stats.pages_total


def test_non_finite_row_fails_alone() -> None:
    """A row with NaN logits ends as failed; the rest of the batch is untouched."""
    driver = EngineDriver()
    bad, good = make_request(1, [1, NAN_TOKEN]), make_request(2, [1, 2])
    driver.run(bad, good)
    assert (driver.finishes[1].reason, driver.finishes[1].error) == (FinishReason.FAILED, "non_finite_logits")
    assert driver.ids[2] == expected_output(good)


def test_pages_behind_nan_are_not_used_again() -> None:
    """After a cached page went bad, one request fails and the next computes the prompt anew."""
    driver = EngineDriver()
    prompt = list(range(12))
    driver.run(make_request(1, [*prompt, 1], max_new_tokens=12))  # its own pages go on from the bad one
    table = driver.engine.scheduler.blocks.open("a")
    driver.engine.scheduler.blocks.extend(table, array("i", [*prompt, 2]))
    driver.runner.nan_pages.add(table.pages[0])
    driver.engine.scheduler.blocks.release(table)
    failed, retried = make_request(2, [*prompt, 2]), make_request(3, [*prompt, 2])
    driver.run(failed)
    assert driver.finishes[2].reason is FinishReason.FAILED
    driver.run(retried)
    assert driver.ids[3] == expected_output(retried)


@pytest.mark.parametrize("queued", [0, 3])
def test_failed_step_ends_its_own_sequences(queued: int) -> None:
    """A runner that raises ends the step's sequences as failed; the queue and later requests are served."""
    driver = EngineDriver(replace(CONFIG, max_num_seqs=2))
    batch = [make_request(i, [i, 1, 2, 3, 4]) for i in range(2 + queued)]
    for request in batch:
        driver.submit(request)
    driver.step()
    driver.runner.failures = 1
    driver.step()
    assert [driver.finishes[i].error for i in (0, 1)] == ["step_failed"] * 2
    assert driver.engine.failures_in_a_row == 1
    driver.drain()
    assert all(driver.finishes[i].reason is FinishReason.LENGTH for i in range(2, 2 + queued))
    driver.run(make_request(9, [0, 1, 2, 3, 4]))
    assert driver.engine.failures_in_a_row == 0
    assert driver.finishes[9].usage.cached_tokens == 0


def test_dead_runner_fails_everything_and_is_counted() -> None:
    """When every step raises, all attempts end and the count tells."""
    driver = EngineDriver(replace(CONFIG, max_num_seqs=1))
    driver.runner.failures = 100
    driver.run(*[make_request(i, [1, 2]) for i in range(4)])
    assert driver.engine.failures_in_a_row == 4


def test_failure_is_reported_without_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a failed step names the error and holds no ids."""
    driver = EngineDriver()
    driver.runner.failures = 1
    driver.run(make_request(1, [51, 52, 53, 54]))
    out = capsys.readouterr()
    text = out.out + out.err
    assert "engine.step_failed" in text
    assert "the device is gone" in text
    assert "51, 52" not in text


def test_use_by_tenant_is_gathered_once_a_second_and_at_the_end_of_work() -> None:
    """A busy engine tells figures up to a second old; those of one that has nothing more to do are of now."""
    driver = EngineDriver()
    engine = driver.engine
    driver.submit(make_request(1, list(range(9)), tenant="acme", max_new_tokens=4))
    before = engine.stats().tenants
    driver.step()
    assert engine.stats().tenants is before
    driver.clock.now += TENANTS_EVERY_S
    assert engine.stats().tenants["acme"] == TenantUse(active_pages=3, miss_tokens=8)
    driver.drain()
    assert engine.stats().tenants["acme"] == TenantUse(cached_pages=3, miss_tokens=8)


def test_number_of_tenants_told_apart_is_the_operators() -> None:
    """Whoever comes, metrics have no more labels than were asked for."""
    driver = EngineDriver(replace(CONFIG, max_named_tenants=2))
    driver.run(*[make_request(i, [i] * 9, tenant=f"t{i}") for i in range(4)])
    assert set(driver.engine.stats().tenants) == {"t0", "t1", "other"}
