"""The fake runner notices plans that mix up pages, positions or rows."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cluster.engine.plan import SamplingColumns, StepPlan
from tests.fakes.engine_driver import make_request
from tests.fakes.fake_runner import FakeRunner, PagingError, expected_output


def make_plan(tokens: list[int], start: int, table: list[int]) -> StepPlan:
    """One row of ``tokens`` from position ``start`` on, greedy."""
    positions = np.arange(start, start + len(tokens), dtype=np.int32)
    pages = np.array(table, dtype=np.int32)
    return StepPlan(
        token_ids=np.array(tokens, dtype=np.int32),
        positions=positions,
        slots=pages[positions // 4].astype(np.int64) * 4 + positions % 4,
        cu_q=np.array([0, len(tokens)], dtype=np.int32),
        kv_lens=np.array([start + len(tokens)], dtype=np.int32),
        block_tables=pages[None, :],
        num_decodes=0,
        sampling=SamplingColumns(
            rows=np.zeros(1, dtype=np.int32),
            temperature=np.zeros(1, dtype=np.float32),
            top_p=np.ones(1, dtype=np.float32),
            top_k=np.zeros(1, dtype=np.int32),
            uniform=np.zeros(1),
        ),
    )


def test_chunks_and_whole_draw_the_same_token() -> None:
    """The token depends on the visible prefix, not on how it was computed."""
    whole = FakeRunner().run(make_plan([1, 2, 3, 4, 5, 6], 0, [3, 5]))
    runner = FakeRunner()
    runner.run(make_plan([1, 2, 3], 0, [7]))
    chunked = runner.run(make_plan([4, 5, 6], 3, [7, 2]))
    expected = expected_output(make_request(1, [1, 2, 3, 4, 5, 6], temperature=0.0, max_new_tokens=1))
    assert whole.token_ids.tolist() == chunked.token_ids.tolist() == expected
    assert whole.finite.all()


@pytest.mark.parametrize(
    "plan",
    [
        make_plan([7], 6, [2, 4]),
        make_plan([7], 8, [2, 3, 4]),
        make_plan([7], 6, [9, 3]),
        make_plan([7], 6, [3, 2]),
        make_plan([1, 2], 0, [0]),
        replace(make_plan([7], 6, [2, 3]), positions=np.array([5], dtype=np.int32)),
        replace(make_plan([7], 6, [2, 3]), slots=np.array([15])),
        replace(make_plan([1, 2], 0, [4]), num_decodes=1),
        replace(make_plan([7], 6, [2, 3]), block_tables=np.array([[2, 3, 5]], dtype=np.int32)),
        replace(make_plan([7], 6, [2, 3]), block_tables=np.array([[2, 3], [3, 0]], dtype=np.int32)),
    ],
    ids=[
        *("wrong tail", "gap", "unwritten page", "pages swapped", "null page", "wrong position", "wrong slot"),
        *("decode of two", "no padding", "page written while shared"),
    ],
)
def test_mistake_is_seen(plan: StepPlan) -> None:
    """A plan that does not continue the prefix in pages 2 and 3 is refused and recorded."""
    runner = FakeRunner()
    runner.run(make_plan([1, 2, 3, 4, 5, 6], 0, [2, 3]))
    with pytest.raises(PagingError):
        runner.run(plan)
    assert len(runner.violations) == 1


def test_page_of_another_prefix_is_seen() -> None:
    """A page at the right place but computed behind another prefix breaks the chain."""
    runner = FakeRunner()
    runner.run(make_plan([1, 2, 3, 4, 5, 6, 7, 8], 0, [2, 3]))
    runner.run(make_plan([9, 2, 3, 4, 5, 6, 7, 8], 0, [4, 5]))
    with pytest.raises(PagingError, match="another prefix"):
        runner.run(make_plan([1], 8, [2, 5, 6]))


@pytest.mark.parametrize(
    "prepare",
    [lambda runner: setattr(runner, "nan_token", 2), lambda runner: runner.nan_pages.add(3)],
    ids=["token", "page"],
)
def test_bad_content_gives_a_non_finite_row(prepare: Callable[[FakeRunner], None]) -> None:
    """A row that sees the NaN token or a page gone bad is reported as not finite."""
    runner = FakeRunner()
    runner.run(make_plan([1, 2, 3, 4], 0, [3]))
    prepare(runner)
    assert runner.run(make_plan([5], 4, [3, 4])).finite.tolist() == [False]
