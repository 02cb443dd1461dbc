"""A plan's arrays say where each token goes."""

import numpy as np

from cluster.engine.batch import build
from cluster.engine.block_manager import BlockManager
from cluster.engine.randomness import uniform
from cluster.engine.sequence import Sequence
from tests.fakes.engine_driver import make_request


def make_sequence(manager: BlockManager, prompt: list[int], *, computed: int, scheduled: int, seed: int) -> Sequence:
    request = make_request(seed, prompt, seed=seed, temperature=0.5 + seed)
    seq = Sequence.from_request(request, arrival=seed, now=0.0, table=manager.open("a"))
    seq.num_computed, seq.num_scheduled = computed, scheduled
    manager.grow(seq.table, computed + scheduled)
    return seq


def test_plan_of_a_mixed_step() -> None:
    """Decodes come first; positions, slots, lengths, tables and draws are those of each row."""
    manager = BlockManager(num_pages=10, page_size=4, model_id="m")
    decode = make_sequence(manager, [1, 2, 3, 4, 5], computed=4, scheduled=1, seed=0)
    chunk = make_sequence(manager, list(range(10, 20)), computed=2, scheduled=4, seed=1)
    last = make_sequence(manager, [7, 8, 9], computed=0, scheduled=3, seed=2)
    batch = build([decode], [chunk, last], 4, 64)
    plan = batch.plan
    pages = [list(seq.table.pages) for seq in (decode, chunk, last)]
    assert plan.num_decodes == 1
    assert plan.token_ids.tolist() == [5, 12, 13, 14, 15, 7, 8, 9]
    assert plan.positions.tolist() == [4, 2, 3, 4, 5, 0, 1, 2]
    assert plan.cu_q.tolist() == [0, 1, 5, 8]
    assert plan.kv_lens.tolist() == [5, 6, 3]
    assert plan.block_tables.tolist() == [pages[0], pages[1], [pages[2][0], 0]]
    assert plan.slots.tolist() == [
        pages[0][1] * 4,
        *(pages[1][0] * 4 + 2, pages[1][0] * 4 + 3, pages[1][1] * 4, pages[1][1] * 4 + 1),
        *(pages[2][0] * 4 + i for i in range(3)),
    ]
    assert plan.sampling.rows.tolist() == [0, 2]
    assert plan.sampling.uniform.tolist() == [uniform(0, 0), uniform(2, 0)]
    assert plan.sampling.temperature.tolist() == [0.5, 2.5]
    assert batch.drawing == [decode, last]


def test_dtypes_are_those_of_the_plan() -> None:
    """Every column has the dtype that StepPlan promises."""
    manager = BlockManager(num_pages=10, page_size=4, model_id="m")
    plan = build([], [make_sequence(manager, [1, 2], computed=0, scheduled=2, seed=0)], 4, 64).plan
    int32 = [plan.token_ids, plan.positions, plan.cu_q, plan.kv_lens, plan.block_tables]
    assert {column.dtype for column in int32} == {np.dtype(np.int32)}
    assert plan.slots.dtype == np.int64
    sampling = plan.sampling
    assert [sampling.rows.dtype, sampling.top_k.dtype] == [np.int32, np.int32]
    assert [sampling.temperature.dtype, sampling.top_p.dtype] == [np.float32, np.float32]
    assert sampling.uniform.dtype == np.float64


def test_draw_index_counts_forced_ids() -> None:
    """A resumed answer draws at the index where its earlier attempt stopped."""
    manager = BlockManager(num_pages=10, page_size=4, model_id="m")
    request = make_request(1, [1, 2], output_ids=[3, 4, 5], seed=9)
    seq = Sequence.from_request(request, arrival=0, now=0.0, table=manager.open("a"))
    seq.num_scheduled = 5
    manager.grow(seq.table, 5)
    assert build([], [seq], 4, 64).plan.sampling.uniform.tolist() == [uniform(9, 3)]
