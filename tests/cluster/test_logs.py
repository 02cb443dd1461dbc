"""The structured log of a process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from cluster.logs import configure


@pytest.fixture(autouse=True)
def other_tests_logs() -> Iterator[None]:
    """The configuration is the process's; leave it as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_line_is_an_object_that_says_who_speaks() -> None:
    """Event, level, time, process, what is bound, and keys; text stays readable."""
    stream = io.StringIO()
    configure("replica-abc", stream)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("x").error("replica.cannot_load", reason="/模型: no weights.")
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "replica.cannot_load", "level": "error", "process": "replica-abc", "request_id": "r1",
        "reason": "/模型: no weights.",
    }  # fmt: skip
    assert "模型" in stream.getvalue()


def fail() -> None:
    """As code of our own would, with a prompt in hand."""
    try:
        int("tell nobody")
    except ValueError as error:
        raise KeyError("nor this") from error


@pytest.mark.parametrize("is_given", [True, False])
def test_an_error_is_told_without_what_it_says(*, is_given: bool) -> None:
    """Its message may hold a prompt; its type, its cause's and the place in the code do not."""
    stream = io.StringIO()
    configure("dispatcher-abc", stream)
    try:
        fail()
    except KeyError as error:
        structlog.get_logger().exception("job.crashed", **({"exc_info": error} if is_given else {}))
    line = json.loads(stream.getvalue())
    assert (line["event"], line["error"], line["cause"]) == ("job.crashed", "KeyError", "ValueError")
    assert line["where"].startswith("test_logs.py:")
    assert not any(text in stream.getvalue() for text in ("tell nobody", "nor this"))


def test_nothing_stands_between_a_line_and_the_process_own_error_stream() -> None:
    """What replaces sys.stderr and print, as Serve does, sees nothing of it; and it is written at once."""
    script = (
        "import io, os, sys, structlog; from cluster.logs import configure; sys.stdout = sys.stderr = io.StringIO();"
        "configure('p'); structlog.get_logger().info('told'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stderr)["event"]) == (9, "told")
