"""The columns of a step say which row asks for what, in the dtypes that the plan promises."""

from __future__ import annotations

import numpy as np

from tests.fakes.drawing import Asked, columns_of, plain
from tests.fakes.scripted_guide import ScriptedGuide

VOCABULARY = 70


def test_each_wish_is_entered_under_its_own_row():
    """Weights, bans and masks of several rows stand one after another."""
    rows = [
        Asked(plain(logit_bias={5: 1.0, 6: -2.0})),
        Asked(plain()),
        Asked(plain(bad_words=((8,), (3, 9), (4, 10)), min_new_tokens=1, stop_ids=(2,)), [3]),
        Asked(plain(presence_penalty=0.5), [1], [7]),
        Asked(plain(), guide=ScriptedGuide([{0, 33, 69}])),
    ]
    found = columns_of(rows, VOCABULARY).adjustments
    assert found is not None
    assert found.weighed_rows.tolist() == [0, 0, 3]
    assert found.weighed_ids.tolist() == [5, 6, 7]
    assert found.factors.tolist() == [1.0, 1.0, 1.0]
    assert found.offsets.tolist() == [1.0, -2.0, -0.5]
    assert found.forbidden_rows.tolist() == [2, 2, 2]
    assert sorted(found.forbidden_ids.tolist()) == [2, 8, 9]
    assert found.guided_rows.tolist() == [4]
    assert found.allowed.tolist() == [[1, 2, 1 << 5]]


def test_columns_have_the_dtypes_of_the_plan():
    """Also those that are empty, because only another kind of adjustment was asked for."""
    for asked in (Asked(plain(logit_bias={5: 1.0}, min_p=0.1, logprobs=1)), Asked(plain(), guide=ScriptedGuide([{1}]))):
        columns = columns_of([asked], VOCABULARY)
        part = columns.adjustments
        assert part is not None
        ints = [part.weighed_rows, part.weighed_ids, part.forbidden_rows, part.forbidden_ids]
        assert {column.dtype for column in [*ints, part.guided_rows, part.allowed]} == {np.dtype(np.int32)}
        assert {part.factors.dtype, part.offsets.dtype} == {np.dtype(np.float32)}
        assert part.allowed.shape[1] == 3
    columns = columns_of([Asked(plain(min_p=0.1, logprobs=1))], VOCABULARY)
    assert columns.min_p is not None
    assert columns.logprobs is not None
    assert [columns.min_p.dtype, columns.logprobs.dtype] == [np.float32, np.int32]


def test_a_structure_that_may_go_on_does_not_end_early():
    """A minimum length takes stop ids out of a mask unless nothing else is in it; the sign bit is an id like others."""
    sampling = plain(min_new_tokens=2, stop_ids=(31, 40))
    guides = [ScriptedGuide([{31, 40, 41}]), ScriptedGuide([{31, 40}]), ScriptedGuide([{31, 63}])]
    found = columns_of([Asked(sampling, guide=guide) for guide in guides], VOCABULARY).adjustments
    assert found is not None
    assert found.allowed.view(np.uint32).tolist() == [[0, 1 << 9, 0], [1 << 31, 1 << 8, 0], [0, 1 << 31, 0]]
    assert not found.forbidden_ids.size
