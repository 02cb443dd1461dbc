"""What every IdIndex promises."""

from __future__ import annotations

from cluster.protocol import Hint
from services.conversations.store import Sampled

HINT = Hint(rank=1, incarnation="r1", tokens=40)


async def test_what_was_put_is_found(index):
    """Entries come back in the order of the keys asked for, None where nothing is known."""
    await index.put(b"one", Sampled([1, 2, 2**32 - 1], HINT))
    await index.put(b"two", Sampled([]))
    await index.flush()
    assert await index.get([b"two", b"none", b"one"]) == [Sampled([]), None, Sampled([1, 2, 2**32 - 1], HINT)]


async def test_a_key_put_again_holds_the_later_ids(index):
    """The last answer with this text wins."""
    await index.put(b"one", Sampled([1]))
    await index.put(b"one", Sampled([2]))
    await index.flush()
    assert await index.get([b"one"]) == [Sampled([2])]


async def test_no_keys_are_no_entries(index):
    """An empty history asks for nothing."""
    assert await index.get([]) == []


async def test_keys_may_hold_any_byte(index):
    """Keys are hashes: braces, NULs and line ends are ordinary."""
    keys = [b"}\x00{", b"\r\n", b"\xff" * 32]
    for number, key in enumerate(keys):
        await index.put(key, Sampled([number]))
    await index.flush()
    assert await index.get(keys) == [Sampled([0]), Sampled([1]), Sampled([2])]
