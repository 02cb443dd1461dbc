"""A guide stands where the answer stands, whoever began it."""

from __future__ import annotations

import pytest

from cluster.engine.block_manager import BlockManager
from cluster.engine.guide import replay
from cluster.engine.sequence import Sequence
from cluster.errors import InvalidRequestError
from tests.fakes.engine_driver import make_request
from tests.fakes.scripted_guide import ScriptedGuide


def test_a_moved_answer_leads_its_guide_to_where_it_stopped() -> None:
    """The ids an earlier attempt emitted are accepted before the first draw; the prompt is not."""
    guide = ScriptedGuide([{7}, {8}, {9}])
    table = BlockManager(num_pages=4, page_size=4, model_id="m").open("a")
    request = make_request(1, [1, 2], output_ids=[7, 8])
    seq = Sequence.from_request(request, arrival=0, now=0.0, table=table, guide=guide)
    assert seq.guide is guide
    assert guide.accepted == [7, 8]


def test_emitted_ids_that_do_not_fit_are_refused() -> None:
    """A request whose emitted ids break its own structure names them."""
    with pytest.raises(InvalidRequestError) as caught:
        replay(ScriptedGuide([{7}, {8}]), [7, 9])
    assert caught.value.param == "output_ids"
