"""Tiles hold each token of a step once, in order, with all it needs to know."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.tiles import tiles_of
from tests.fakes.stepping import Feed, Held, Stepper

rows = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40)), min_size=1, max_size=8)


def plan_of(rows, page_size=4):
    """A step that feeds each sequence ``count`` tokens after the ``before`` it has."""
    stepper = Stepper(SimpleNamespace(num_pages=400, page_size=page_size), scatter=1)
    feeds = [Feed(Held(length=before), range(count)) for before, count in sorted(rows, key=lambda row: row[1] != 1)]
    return stepper.plan(feeds)


@given(rows, st.sampled_from([1, 3, 16]))
def test_each_token_is_in_one_tile_and_all_tiles_are_equally_large(rows, size):
    """Only the last tile has padding."""
    plan = plan_of(rows)
    tiles = list(tiles_of(plan, size))
    assert all(len(tile.token_ids) == len(tile.lengths) == len(tile.block_tables) == size for tile in tiles)
    assert all(tile.count == size for tile in tiles[:-1])
    for name in ("token_ids", "positions"):
        joined = np.concatenate([getattr(tile, name)[: tile.count] for tile in tiles])
        assert joined.tolist() == getattr(plan, name).tolist()
    assert np.concatenate([tile.slots for tile in tiles]).tolist() == plan.slots.tolist()


@given(rows, st.sampled_from([1, 3, 16]))
def test_each_token_sees_its_sequence_up_to_itself(rows, size):
    """The last page that a token sees is the one it is written to."""
    plan = plan_of(rows)
    for tile in tiles_of(plan, size):
        for place in range(tile.count):
            page, offset = divmod(int(tile.lengths[place]) - 1, 4)
            assert tile.block_tables[place][page] * 4 + offset == tile.slots[place]


def test_padding_sees_one_token_of_the_null_page_and_writes_nothing():
    """So nothing of it reaches any sequence."""
    [tile] = tiles_of(plan_of([(5, 3)]), 8)
    assert tile.lengths.tolist() == [6, 7, 8, 1, 1, 1, 1, 1]
    assert not tile.block_tables[3:].any()
    assert tile.count == 3
