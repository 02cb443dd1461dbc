"""What a step may take, learnt from others, and when the one under way has stalled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.step_pace import StepPace, StepWatch
from tests.fakes.fake_clock import FakeClock

SIZES = st.integers(1, 8192)


@given(
    overhead=st.floats(0, 1),
    per_token=st.floats(1e-6, 1e-2),
    sizes=st.lists(SIZES, min_size=1, max_size=20),
    wanted=SIZES,
)
def test_steady_cost_is_never_underestimated(overhead: float, per_token: float, sizes: list[int], wanted: int) -> None:
    """For a fixed cost and a cost per token, a prediction of any size is no less than the cost."""
    pace = StepPace()
    for size in sizes:
        pace.observe(size, overhead + per_token * size)
    predicted = pace.predict(wanted)
    assert predicted is not None
    assert predicted * 1.000001 >= overhead + per_token * wanted


@given(overhead=st.floats(0, 1), per_token=st.floats(1e-6, 1e-2), size=SIZES, wanted=SIZES)
def test_known_size_is_predicted_within_a_factor_of_two(
    overhead: float, per_token: float, size: int, wanted: int
) -> None:
    """A size like one that was measured is overestimated at most twice."""
    pace = StepPace()
    pace.observe(size, overhead + per_token * size)
    if wanted.bit_length() == size.bit_length():
        predicted = pace.predict(wanted)
        assert predicted is not None
        assert predicted <= 2 * (overhead + per_token * wanted)


def test_nothing_is_predicted_before_the_first_step() -> None:
    """Without a measurement there is no prediction."""
    assert StepPace().predict(1) is None


def test_slowest_step_fades() -> None:
    """One slow step is forgotten over the following ones; a slower time counts at once."""
    pace = StepPace()
    pace.observe(1, 1.0)
    pace.observe(1, 0.01)
    assert pace.predict(1) == pytest.approx(0.98)
    for _ in range(300):
        pace.observe(1, 0.01)
    assert pace.predict(1) == pytest.approx(0.01)
    pace.observe(1, 0.5)
    assert pace.predict(1) == 0.5


def test_decodes_do_not_make_a_prefill_look_cheap() -> None:
    """A size never seen is bounded by smaller steps in proportion and by larger ones as they are."""
    pace = StepPace()
    pace.observe(1, 0.02)
    assert pace.predict(512) == pytest.approx(0.02 * 512)
    pace.observe(511, 0.3)
    assert pace.predict(2) == pytest.approx(0.04)
    assert pace.predict(100) == pytest.approx(0.3)


def run(watch: StepWatch, clock: FakeClock, tokens: int, seconds: float) -> None:
    watch.begin(clock.now)
    watch.expect(tokens)
    clock.now += seconds
    watch.end(clock.now)


def warm_watch(clock: FakeClock) -> StepWatch:
    """A watch that has seen its first step, which took long and measured nothing."""
    watch = StepWatch(clock)
    run(watch, clock, 512, 50.0)
    return watch


def test_step_stalls_at_ten_times_its_prediction() -> None:
    """A step of a size that took one second has stalled after ten."""
    clock = FakeClock()
    watch = warm_watch(clock)
    run(watch, clock, 511, 1.0)
    watch.begin(clock.now)
    watch.expect(511)
    clock.now += 9.9
    assert not watch.is_stalled()
    clock.now += 0.2
    assert watch.is_stalled()
    assert watch.running_for_s() == pytest.approx(10.1)


def test_short_steps_have_three_seconds() -> None:
    """However quick steps are, none has stalled before three seconds."""
    clock = FakeClock()
    watch = warm_watch(clock)
    run(watch, clock, 1, 0.001)
    watch.begin(clock.now)
    watch.expect(1)
    clock.now += 2.9
    assert not watch.is_stalled()
    clock.now += 0.2
    assert watch.is_stalled()


@pytest.mark.parametrize("tokens", [0, 512])
def test_first_step_has_a_minute(tokens: int) -> None:
    """Without a measurement, and while a step is still being decided, the limit is a minute."""
    clock = FakeClock()
    watch = warm_watch(clock)
    watch.begin(clock.now)
    if tokens:
        watch.expect(tokens)
    clock.now += 59.0
    assert not watch.is_stalled()
    clock.now += 2.0
    assert watch.is_stalled()


def test_long_prefill_after_short_ones_is_no_stall() -> None:
    """Five seconds for a chunk are fine where a tenth of it took half a second."""
    clock = FakeClock()
    watch = warm_watch(clock)
    run(watch, clock, 400, 0.5)
    watch.begin(clock.now)
    watch.expect(4000)
    clock.now += 5.0
    assert not watch.is_stalled()


def test_nothing_stalls_between_steps() -> None:
    """An hour without work is no stall and teaches nothing."""
    clock = FakeClock()
    watch = warm_watch(clock)
    run(watch, clock, 1, 0.1)
    clock.now += 3600.0
    assert not watch.is_stalled()
    assert watch.running_for_s() == 0.0
    watch.begin(clock.now)
    watch.end(clock.now)  # a step with nothing to compute
    run(watch, clock, 1, 0.1)
    watch.begin(clock.now)
    watch.expect(1)
    clock.now += 3.1
    assert watch.is_stalled()


def test_failed_step_teaches_nothing() -> None:
    """A step that raised is not a measurement."""
    clock = FakeClock()
    watch = warm_watch(clock)
    watch.begin(clock.now)
    watch.expect(1)
    watch.end(clock.now, is_measure=False)
    watch.begin(clock.now)
    watch.expect(1)
    clock.now += 30.0
    assert not watch.is_stalled()


def test_stopped_process_does_not_raise_the_limit_to_its_absence() -> None:
    """After a minute outside, a hanging step is still found in tens of seconds, and soon in three again."""
    clock = FakeClock()
    watch = warm_watch(clock)
    run(watch, clock, 1, 0.02)
    run(watch, clock, 1, 60.0)
    watch.begin(clock.now)
    watch.expect(1)
    clock.now += 30.1
    assert watch.is_stalled()
    for _ in range(300):
        run(watch, clock, 1, 0.02)
    watch.begin(clock.now)
    watch.expect(1)
    clock.now += 3.1
    assert watch.is_stalled()
