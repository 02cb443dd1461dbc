"""The heap agrees with a plain minimum, whatever grows, improves, comes and goes."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.growing_heap import GrowingHeap

changes = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["add", "grow", "improve", "remove"]), st.integers(1, 9))
)


@given(changes)
def test_peek_is_the_least(happened: list[tuple[int, str, int]]) -> None:
    """After any change the top is an item with the least key; growing needs no word, improving a push."""
    keys: dict[int, int] = {}
    heap: GrowingHeap[int] = GrowingHeap(lambda item: (keys[item],))
    for item, what, amount in happened:
        if what == "add" and item not in keys:
            keys[item] = amount
            heap.push(item)
        elif what == "remove" and item in keys:
            heap.remove(item)
            del keys[item]
        elif item in keys:
            keys[item] += amount if what == "grow" else -amount
            if what != "grow":
                heap.push(item)
        top = heap.peek()
        assert (None if top is None else keys[top]) == min(keys.values(), default=None)
        assert len(heap) == len(keys)


def test_memory_follows_the_items() -> None:
    """A thousand improvements of one item leave no thousand entries behind."""
    keys = {0: 1e9, 1: 0.0}
    heap: GrowingHeap[int] = GrowingHeap(lambda item: (keys[item],))
    heap.push(0)
    for _ in range(1000):
        keys[1] -= 1
        heap.push(1)
    assert len(heap._heap) < 50
