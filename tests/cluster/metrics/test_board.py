"""The board: the latest report of each process that still reports."""

from __future__ import annotations

import msgspec

from cluster.metrics.board import FORGET_AFTER_S, Board, Snapshot
from cluster.metrics.families import Report, counter
from tests.fakes.fake_clock import FakeClock


def report(process: str, value: float) -> bytes:
    return msgspec.msgpack.encode(Report(process, [counter("tokens", "Tokens.", value)]))


def test_text_and_snapshot_hold_the_same_latest_reports() -> None:
    """A newer report replaces the process's older one, in both."""
    board = Board(FakeClock())
    for process, value in (("a", 1), ("b", 2), ("a", 3)):
        board.post(report(process, value))
    snapshot = msgspec.msgpack.decode(board.snapshot(), type=Snapshot)
    assert {r.process: r.families[0].samples[0][2] for r in snapshot.reports} == {"a": 3, "b": 2}
    assert b'tokens_total{process="a"} 3.0' in board.text()
    assert b'tokens_total{process="a"} 1.0' not in board.text()


def test_a_process_that_stops_reporting_is_forgotten() -> None:
    """After five seconds without a word it is in neither."""
    clock = FakeClock()
    board = Board(clock)
    board.post(report("gone", 1))
    clock.now += FORGET_AFTER_S + 0.1
    board.post(report("here", 2))
    assert b"gone" not in board.text()
    assert [r.process for r in msgspec.msgpack.decode(board.snapshot(), type=Snapshot).reports] == ["here"]


def test_the_snapshot_says_who_cannot_load() -> None:
    """From an attempt's beginning to the replica's service."""
    board = Board(FakeClock())
    board.begin_loading(1, "abc", "10.0.0.1")
    assert board.fail_loading(1, "abc", "no weights") == 1
    (entry,) = msgspec.msgpack.decode(board.snapshot(), type=Snapshot).loading
    assert (entry.rank, entry.incarnation, entry.failures, entry.reason) == (1, "abc", 1, "no weights")
    assert b'chatglm_load_failures{process="board",rank="1"} 1.0' in board.text()
    board.end_loading(1)
    assert b"chatglm_load_failures" not in board.text()
    assert msgspec.msgpack.decode(board.snapshot(), type=Snapshot).loading == []
