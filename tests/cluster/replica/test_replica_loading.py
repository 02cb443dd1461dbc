"""A replica that cannot load says why, and does not come back at once."""

from __future__ import annotations

import pytest
import structlog.testing

from cluster.errors import CheckpointError, ConfigurationError
from cluster.metrics.loading import LoadingBook
from cluster.replica.loading import MAX_PAUSE_S, reason_of, signed_in
from tests.fakes.fake_desk import FakeDesk


class Sleeps:
    """Takes no time and remembers how long it was asked to."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def load(book: LoadingBook, error: Exception | None, sleep: Sleeps | None = None, incarnation: str = "a") -> None:
    """One attempt at loading."""
    async with signed_in(FakeDesk(book, rank=1, incarnation=incarnation), sleep or Sleeps()):
        if error is not None:
            raise error


async def test_the_reason_reaches_board_log_and_serve() -> None:
    """The same sentence in all three."""
    book = LoadingBook()
    with structlog.testing.capture_logs() as lines, pytest.raises(CheckpointError, match="/model: no weights"):
        await load(book, CheckpointError("/model: no weights."))
    assert [(entry.rank, entry.reason) for entry in book.entries()] == [(1, "/model: no weights.")]
    (line,) = lines
    assert (line["event"], line["log_level"], line["rank"]) == ("replica.cannot_load", "error", 1)
    assert (line["reason"], line["failures"]) == ("/model: no weights.", 1)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore."),
    ],
    ids=["python", "torch on CPU", "torch on CUDA"],
)
async def test_too_little_memory_is_called_so(error: Exception) -> None:
    """Whatever the allocator raised becomes our own error, in one line."""
    book = LoadingBook()
    with pytest.raises(ConfigurationError, match="too little memory"):
        await load(book, error)
    assert "too little memory" in book.entries()[0].reason
    assert "\n" not in book.entries()[0].reason


async def test_other_errors_stay_what_they_are() -> None:
    """An error nobody foresaw is told by type and first line."""
    book = LoadingBook()
    with pytest.raises(KeyError):
        await load(book, KeyError("x"))
    assert book.entries()[0].reason == "KeyError: 'x'"
    assert reason_of(ValueError("first\nsecond")) == "ValueError: first"
    assert reason_of(ValueError()) == "ValueError"


async def test_each_failure_lingers_longer_up_to_a_bound() -> None:
    """Attempts in a row wait 1, 3, 7, 15, 15 … seconds, so that replicas that serve keep their cores."""
    book, sleep = LoadingBook(), Sleeps()
    for attempt in range(6):
        with pytest.raises(CheckpointError):
            await load(book, CheckpointError("no weights"), sleep, incarnation=str(attempt))
    assert sleep.pauses == [1, 3, 7, MAX_PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S]


async def test_a_replica_that_loads_is_signed_out() -> None:
    """Nothing is left on the board, and nobody waits."""
    book, sleep = LoadingBook(), Sleeps()
    with pytest.raises(CheckpointError):
        await load(book, CheckpointError("no weights"), incarnation="bad")
    await load(book, None, sleep, incarnation="good")
    assert (book.entries(), sleep.pauses) == ([], [])
