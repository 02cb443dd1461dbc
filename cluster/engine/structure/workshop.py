"""The process that tries structures, as its owner sees it: started when needed, replaced when it died.

Everything here blocks and belongs to one thread, except ``close``. A worker that is gone has either ended because it
was idle, which is made good by another one, or it died of the structure it was given, which is the structure's fault.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Final

import msgspec
import structlog

from cluster.engine.structure.frames import Reply, read_frame, write_frame
from cluster.engine.structure.vocabulary import Vocabulary
from cluster.errors import NoReplicaError
from cluster.parentage import import_path
from cluster.protocol import Structure

IDLE_S: Final = 300.0  # a worker holds some 250 MB
LIMIT_S: Final = 2.0  # usual schemas take 0.3 at ChatGLM3's vocabulary

log = structlog.get_logger(__name__)


class Workshop:
    """Tries structures in a process of its own, each within ``limit_s`` of that process's computing time.

    The process ends when nothing was asked for ``idle_s``.
    """

    def __init__(self, vocabulary: Vocabulary, *, limit_s: float = LIMIT_S, idle_s: float = IDLE_S) -> None:
        self._vocabulary = vocabulary
        self._arguments = [str(os.getpid()), str(limit_s), str(idle_s)]
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # between ``close`` and a start
        self._is_closed = False
        self._is_greeted = False  # the worker has the vocabulary and said so

    def try_out(self, structure: Structure) -> str:
        """The reason why a structure cannot be used, in a sentence; empty when it can.

        Raises:
            NoReplicaError: no worker can be had, or ``close`` was called.
        """
        payload = msgspec.msgpack.encode(structure)
        answer, status = self._ask(payload)
        if not answer and status == 0:  # it had gone to sleep before it read the structure
            answer, status = self._ask(payload)
        if answer:
            return msgspec.msgpack.decode(answer, type=Reply).error
        if self._is_closed:
            raise _closed()
        log.warning("structure.worker_died", status=status, kind=structure.kind.value, size=len(structure.text))
        return _cause(status)

    def close(self) -> None:
        """End the worker, whatever it does, and start no other. From any thread; ``clear`` must follow."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()

    def clear(self) -> None:
        """Release what is left of the worker after ``close``."""
        if self._process is not None:
            self._bury(self._process)

    def _ask(self, payload: bytes) -> tuple[bytes, int]:
        """One structure to the worker: its answer, or nothing and the status that it exited with."""
        process = self._ready()
        try:
            write_frame(_pipe(process.stdin), payload)
            answer = read_frame(_pipe(process.stdout))
        except BrokenPipeError:
            answer = b""
        return (answer, 0) if answer else (b"", self._bury(process))

    def start(self) -> None:
        """Begin to start a worker, and do not wait until it can work. Raises NoReplicaError after ``close``."""
        with self._lock:
            if self._is_closed:
                raise _closed()
            self._process = subprocess.Popen(  # noqa: S603 -- nothing in it comes from a request
                [sys.executable, "-P", "-m", "cluster.engine.structure.worker", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": import_path(), "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C in a terminal is its parent's alone
            )
        self._is_greeted = False

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self.start()
        process = self._process
        assert process is not None, "it was started"
        if self._is_greeted:
            return process
        try:
            write_frame(_pipe(process.stdin), msgspec.msgpack.encode(self._vocabulary))
            self._is_greeted = bool(read_frame(_pipe(process.stdout)))
        except BrokenPipeError:
            self._is_greeted = False
        if self._is_greeted:
            return process
        status = self._bury(process)
        if self._is_closed:
            raise _closed()
        log.error("structure.worker_does_not_start", status=status)
        raise NoReplicaError("The process that tries structures does not start.", retry_after_s=5.0)

    def _bury(self, process: subprocess.Popen[bytes]) -> int:
        with self._lock:
            self._process = None
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):  # what was not written yet is lost with its reader
                _pipe(pipe).close()
        return process.wait()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "both ends were asked for"
    return stream


def _closed() -> NoReplicaError:
    return NoReplicaError("The engine is stopping.", retry_after_s=1.0)


def _cause(status: int) -> str:
    if status == -signal.SIGPROF:
        return "It takes too long to compile."
    return "Compiling it ended the process that tried."
