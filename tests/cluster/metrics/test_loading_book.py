"""Who is loading, and why those that failed did."""

from __future__ import annotations

import pytest

from cluster.metrics.loading import ENDED_WITHOUT_WORD, FORGET_AFTER_S, LoadingBook
from tests.fakes.fake_clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def book(clock: FakeClock) -> LoadingBook:
    return LoadingBook(clock)


def test_attempts_of_a_rank_share_one_line(book: LoadingBook) -> None:
    """The next attempt keeps the reason of the one before, and where that one ran."""
    book.begin(1, "first", "10.0.0.1")
    assert book.fail(1, "first", "no weights") == 1
    book.begin(1, "second", "10.0.0.2")
    (entry,) = book.entries()
    assert (entry.incarnation, entry.node) == ("second", "10.0.0.2")
    assert (entry.failures, entry.reason, entry.reason_node) == (1, "no weights", "10.0.0.1")
    assert book.fail(1, "second", "no weights") == 2


def test_an_attempt_that_never_signs_out_was_ended_from_outside(book: LoadingBook) -> None:
    """A process killed while it loads cannot tell; the next one's coming does."""
    book.begin(0, "killed", "n")
    book.begin(0, "next", "n")
    (entry,) = book.entries()
    assert (entry.failures, entry.reason) == (1, ENDED_WITHOUT_WORD)


def test_beginning_twice_is_no_failure(book: LoadingBook) -> None:
    """The same attempt may be told twice."""
    book.begin(0, "same", "n")
    book.begin(0, "same", "n")
    assert [entry.failures for entry in book.entries()] == [0]


def test_a_replica_that_serves_is_not_loading(book: LoadingBook) -> None:
    """Its line goes, with what had failed before; the other ranks' stay."""
    for rank in (0, 1):
        book.begin(rank, f"r{rank}", "n")
        book.fail(rank, f"r{rank}", "no weights")
    book.done(0)
    assert [entry.rank for entry in book.entries()] == [1]
    book.begin(0, "later", "n")
    assert book.entries()[0].failures == 0


def test_an_old_attempt_cannot_speak_for_a_newer_one(book: LoadingBook) -> None:
    """A late word changes nothing."""
    book.begin(0, "old", "n")
    book.fail(0, "old", "no weights")
    book.begin(0, "new", "n")
    assert book.fail(0, "old", "something else") == 1
    assert book.entries()[0].reason == "no weights"


def test_a_rank_that_was_given_up_is_forgotten(book: LoadingBook, clock: FakeClock) -> None:
    """Without news for a quarter of an hour the line goes; news keep it."""
    book.begin(0, "a", "n")
    book.begin(1, "b", "n")
    clock.now += FORGET_AFTER_S / 2
    book.fail(1, "b", "no weights")
    clock.now += FORGET_AFTER_S / 2 + 1
    assert [entry.rank for entry in book.entries()] == [1]
