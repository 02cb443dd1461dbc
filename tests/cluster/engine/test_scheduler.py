"""Which tokens a step computes, who waits, who goes and who is refused."""

from dataclasses import replace

import msgspec
import pytest

from cluster.engine.sequence import Sequence
from cluster.errors import InvalidRequestError, OverloadedError
from cluster.protocol import Finish, FinishReason, Tokens
from tests.fakes.engine_driver import CONFIG, EngineDriver, make_request


def counts(driver: EngineDriver) -> list[int]:
    """Tokens per row of the next step, without computing it on the driver's runner."""
    seen: list[int] = []
    run = driver.runner.run

    def spy(plan):
        seen.extend((plan.cu_q[1:] - plan.cu_q[:-1]).tolist())
        return run(plan)

    driver.runner.run = spy
    driver.step()
    driver.runner.run = run
    return seen


def running(driver: EngineDriver) -> list[Sequence]:
    return driver.engine.scheduler.running


def test_long_prompt_is_computed_in_chunks_that_end_with_pages() -> None:
    """A prompt over the budget takes several steps, all but the last ending at a page's end."""
    driver = EngineDriver(replace(CONFIG, max_batched_tokens=10))
    driver.submit(make_request(1, list(range(21))))
    assert [counts(driver) for _ in range(4)] == [[8], [8], [5], [1]]


def test_decodes_come_before_prefills_and_never_wait_for_them() -> None:
    """While a long prompt is computed, the running answer gets a token in every step."""
    driver = EngineDriver()
    driver.submit(make_request(1, [1, 2, 3]))
    driver.step()
    driver.submit(make_request(2, list(range(30))))
    assert [counts(driver) for _ in range(4)] == [[1, 8], [1, 8], [1, 8], [1, 6]]
    assert len(driver.ids[1]) == 5


def test_request_joins_the_running_batch() -> None:
    """A request that arrives later is computed beside the ones that run."""
    driver = EngineDriver()
    driver.submit(make_request(1, [1, 2, 3]))
    driver.step()
    driver.submit(make_request(2, [4, 5]))
    assert counts(driver) == [1, 2]


def test_batch_size_is_bounded() -> None:
    """No more than max_num_seqs sequences run; the rest wait in order."""
    driver = EngineDriver(replace(CONFIG, max_num_seqs=2))
    for i in range(5):
        driver.submit(make_request(i, [i, 1]))
    driver.step()
    assert [seq.attempt for seq in running(driver)] == [0, 1]
    assert driver.queued == [2, 3, 4]


def test_full_queue_refuses_with_a_time() -> None:
    """Beyond max_waiting a request is refused and leaves no trace."""
    driver = EngineDriver(replace(CONFIG, max_waiting=2))
    for i in range(2):
        driver.submit(make_request(i, [1]))
    with pytest.raises(OverloadedError) as caught:
        driver.engine.submit(make_request(2, [1]))
    assert 1.0 <= caught.value.retry_after_s <= 60.0
    driver.drain()
    assert driver.engine.stats().prompt_tokens == 2


def test_refusal_tells_the_measured_time() -> None:
    """The retry time is that of the queue at its present pace."""
    driver = EngineDriver(replace(CONFIG, max_waiting=4, max_num_seqs=1))
    for i in range(4):
        driver.submit(make_request(i, [1, 2], max_new_tokens=5))
    for _ in range(11):  # one answer in five seconds
        driver.step()
        driver.clock.now += 1.0
    for i in range(4, 7):
        driver.submit(make_request(i, [1, 2]))
    with pytest.raises(OverloadedError) as caught:
        driver.engine.submit(make_request(9, [1]))
    assert caught.value.retry_after_s == pytest.approx(4 * 5, rel=0.2)


def test_attempt_is_accepted_once() -> None:
    """A second request under a running attempt's number is refused."""
    driver = EngineDriver()
    driver.submit(make_request(1, [1]))
    with pytest.raises(InvalidRequestError, match="already"):
        driver.engine.submit(make_request(1, [2]))


def test_head_of_the_queue_is_not_overtaken() -> None:
    """A small request behind one that does not fit yet waits its turn."""
    driver = EngineDriver(num_pages=10)
    driver.submit(make_request(1, [1] * 20, max_new_tokens=8))
    driver.step()
    driver.submit(make_request(2, [2] * 24, max_new_tokens=4))
    driver.submit(make_request(3, [3]))
    driver.step()
    driver.step()
    assert [seq.attempt for seq in running(driver)] == [1]
    driver.drain()


def test_latest_arrival_is_preempted_and_the_oldest_is_not() -> None:
    """When pages run out the youngest goes back to the head of the queue; everyone ends with the right ids."""
    driver = EngineDriver(num_pages=14)
    requests = [make_request(i, [i] * 8, max_new_tokens=24) for i in range(3)]
    for request in requests:
        driver.submit(request)
    preempted: list[int] = []
    while driver.engine.has_work:
        driver.step()
        preempted += [attempt for attempt in driver.queued if attempt not in preempted]
    assert preempted[0] == 2
    assert 0 not in preempted
    assert driver.engine.stats().preemptions > 0


def test_preempted_sequence_finds_its_pages_again() -> None:
    """What was computed before a preemption is mostly found, not computed again."""
    driver = EngineDriver(num_pages=14)
    for i in range(2):
        driver.submit(make_request(i, [i] * 12, max_new_tokens=26))
    driver.drain()
    needed = 2 * (12 + 26 - 1)
    assert driver.engine.stats().preemptions == 1
    assert driver.runner.computed < needed + 20


def test_prompt_being_computed_is_shared_at_once() -> None:
    """A second request with the same long prompt finds the pages that the first has computed so far."""
    driver = EngineDriver()
    driver.submit(make_request(1, list(range(40))))
    driver.submit(make_request(2, list(range(40))))
    driver.drain()
    assert driver.finishes[2].usage.cached_tokens == 36
    assert driver.runner.computed == 40 + 4 + 2 * 7


@pytest.mark.parametrize("steps", range(6))
def test_abort_frees_pages_at_any_step(steps: int) -> None:
    """An attempt aborted while it waits, prefills or decodes ends as aborted, and its pages are free."""
    driver = EngineDriver()
    driver.submit(make_request(1, list(range(30))))
    for _ in range(steps):
        driver.step()
    driver.engine.abort(1)
    assert driver.engine.stats().pages_active == 0
    driver.step()
    assert driver.finishes[1].reason is FinishReason.ABORTED
    assert not driver.engine.has_work


def test_abort_of_an_unknown_attempt_is_ignored() -> None:
    """Aborting what never was, or has ended, does nothing."""
    driver = EngineDriver()
    driver.run(make_request(1, [1]))
    for attempt in (1, 2):
        driver.engine.abort(attempt)
    assert not driver.engine.has_work


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_deadline_ends_a_sequence(steps: int) -> None:
    """An attempt whose deadline passes fails with deadline_exceeded, queued or running; others go on."""
    driver = EngineDriver()
    driver.submit(make_request(1, list(range(20)), deadline_s=2.0, max_new_tokens=20))
    driver.submit(make_request(2, [1], max_new_tokens=20))
    driver.submit(make_request(3, [1], max_new_tokens=20, deadline_s=50.0))
    for _ in range(steps):
        driver.step()
    driver.clock.now += 2.0
    driver.step()
    assert (driver.finishes[1].reason, driver.finishes[1].error) == (FinishReason.FAILED, "deadline_exceeded")
    driver.drain()
    assert [driver.finishes[i].reason for i in (2, 3)] == [FinishReason.LENGTH] * 2


def test_length_emits_the_last_token() -> None:
    """max_new_tokens are all emitted, then the answer ends with LENGTH."""
    driver = EngineDriver()
    driver.submit(make_request(1, [1, 2], max_new_tokens=1))
    assert [type(event) for _, event in driver.step()] == [Tokens, Finish]
    assert driver.finishes[1].reason is FinishReason.LENGTH


def test_context_can_be_filled() -> None:
    """An answer may reach the last position of the context."""
    driver = EngineDriver()
    (ids,) = driver.run(make_request(1, [1] * 90, max_new_tokens=6))
    assert len(ids) == 6


def test_stop_id_is_not_part_of_the_output() -> None:
    """A sampled stop id ends the answer and is not emitted."""
    (undisturbed,) = EngineDriver().run(make_request(1, [1, 2, 3]))
    driver = EngineDriver()
    (ids,) = driver.run(make_request(1, [1, 2, 3], stop_ids=(undisturbed[4],)))
    assert ids == undisturbed[: undisturbed.index(undisturbed[4])]
    assert driver.finishes[1].reason is FinishReason.STOP


@pytest.mark.parametrize("forced", [0, 3])
def test_nothing_left_to_generate(forced: int) -> None:
    """An answer whose ids were all emitted already ends with LENGTH and computes nothing."""
    driver = EngineDriver()
    assert driver.run(make_request(1, [1, 2], output_ids=[5] * forced, max_new_tokens=forced)) == [[5] * forced]
    assert driver.finishes[1].reason is FinishReason.LENGTH
    assert driver.runner.computed == 0


def test_stats_count_what_happened() -> None:
    """Counters and levels follow two turns of a conversation."""
    driver = EngineDriver()
    driver.submit(make_request(1, list(range(10)), max_new_tokens=7))
    driver.submit(make_request(2, list(range(10, 20)), max_new_tokens=7))
    assert driver.engine.stats().waiting_tokens == 20
    driver.step()
    stats = driver.engine.stats()
    assert (stats.running, stats.waiting, stats.waiting_tokens) == (2, 0, 1 + 8)
    driver.drain()
    driver.run(make_request(3, list(range(10)), max_new_tokens=7))
    stats = driver.engine.stats()
    assert (stats.prompt_tokens, stats.cached_tokens, stats.output_tokens) == (30, 8, 21)
    assert (stats.pages_total, stats.pages_active, stats.pages_cached) == (39, 0, 8)


def test_wish_to_keep_the_pages_reaches_the_cache() -> None:
    """The pages of a request with keep_s outlive later ones of its tenant without."""
    driver = EngineDriver(num_pages=14)
    kept = msgspec.structs.replace(make_request(1, list(range(16)), max_new_tokens=1), keep_s=60.0)
    driver.run(kept)
    for i in range(2, 6):
        driver.run(make_request(i, [i] * 20, max_new_tokens=1))
    driver.run(make_request(9, list(range(16)), max_new_tokens=1))
    assert driver.finishes[9].usage.cached_tokens == 12


def test_deadlines_are_forgotten_with_their_sequences() -> None:
    """Any number of requests with deadlines may end in time and leave nothing behind."""
    driver = EngineDriver()
    for i in range(20):
        driver.run(make_request(i, [1], deadline_s=1e6, max_new_tokens=1))
    driver.submit(make_request(99, [1], deadline_s=5.0, max_new_tokens=9))
    driver.clock.now += 6.0
    driver.step()
    assert driver.finishes[99].error == "deadline_exceeded"
    assert len(driver.engine.scheduler._deadlines) < 4
