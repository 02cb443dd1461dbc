"""Errors cross to the other process as themselves."""

from __future__ import annotations

import msgspec
import pytest

from cluster.errors import (
    CheckpointError,
    ClusterError,
    ContextLengthExceededError,
    ConversationBusyError,
    InvalidRequestError,
    NoReplicaError,
    NotFoundError,
    OverloadedError,
    ToolCallError,
)
from cluster.faults import _OURS, Fault, to_error, to_fault

EXAMPLES: list[ClusterError] = [
    InvalidRequestError("wrong", param="messages.0"),
    InvalidRequestError("wrong"),
    ContextLengthExceededError(prompt_tokens=9, max_tokens=3, context_length=10),
    NotFoundError("model", "gpt"),
    ConversationBusyError("resp_1"),
    OverloadedError("full", retry_after_s=2.5, refused_by="r1"),
    NoReplicaError("none", retry_after_s=1),
    ToolCallError("no call", text="{"),
    CheckpointError("config.json: no such file"),
]


def crossed(error: Exception) -> Exception:
    """The error after the way over the wire."""
    return to_error(msgspec.msgpack.decode(msgspec.msgpack.encode(to_fault(error)), type=Fault))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_arrives_with_its_text_and_its_values(error: ClusterError) -> None:
    """Whatever its constructor takes."""
    arrived = crossed(error)
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived), arrived.args) == (str(error), vars(error), (str(error),))


def test_every_error_of_the_tree_can_cross() -> None:
    """The table is made from the tree itself."""

    def below(kind: type[ClusterError]) -> set[type[ClusterError]]:
        return {kind}.union(
            *[below(child) for child in kind.__subclasses__() if child.__module__ == ClusterError.__module__]
        )

    assert set(_OURS.values()) == below(ClusterError)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (MemoryError("no room"), MemoryError, "no room"),
        (NotImplementedError("CUDA out of memory"), RuntimeError, "CUDA out of memory"),
        (KeyError("what"), RuntimeError, "KeyError: 'what'"),
    ],
)
def test_errors_of_others_keep_what_tells_them_apart(error: Exception, kind: type[Exception], text: str) -> None:
    """Too little memory is known by MemoryError, or by the text of a RuntimeError of whatever class."""
    arrived = crossed(error)
    assert (type(arrived), str(arrived)) == (kind, text)


def test_an_error_of_another_version_is_an_error_still() -> None:
    """A kind that this side does not know keeps its text."""
    error = to_error(Fault("NewerError", "what it says"))
    assert (type(error), str(error)) == (ClusterError, "what it says")
