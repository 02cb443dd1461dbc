"""The process that tries structures: one at a time, under limits of time and memory that it sets for itself.

Compiling is native code that cannot be interrupted, and a schema of a few kilobytes can take it hours or gigabytes. So
it is done first where it may die: the kernel ends this process when its timer runs out, even if nobody waits for it any
more. What passes is compiled again where it is needed; handing it over takes longer (50 MB, 2 s against 0.03 s for a
schema of 100 properties).

It reads frames from standard input and answers on standard output (four bytes of length, little endian, then msgpack):
first a ``Vocabulary``, then one ``Structure`` after another, each answered by a ``Reply``. It ends with its input, or
when nothing is asked for a while. Its arguments are its parent's number, how many seconds of its own time a structure
may take, and after how many idle seconds it ends.
"""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import sys
from pathlib import Path
from typing import IO, Final

import msgspec
import numpy as np
import xgrammar

from cluster.engine.structure import json_schema
from cluster.engine.structure.frames import Reply, read_frame, write_frame
from cluster.engine.structure.grammars import grammar_of, tokenizer_info
from cluster.engine.structure.guide import GrammarGuide, GuideTables
from cluster.engine.structure.vocabulary import Vocabulary
from cluster.parentage import die_with
from cluster.protocol import Structure, StructureKind

START_LIMIT_S: Final = 120.0
MAX_MEMORY: Final = 2**30  # bytes, beside what a started worker has
MAX_GRAMMAR: Final = 2**25  # bytes of a compiled grammar
NICENESS: Final = 10  # the engine's threads come first

_TOO_MUCH: Final = "Compiling it needs more memory than is allowed."
_ORIGIN: Final = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: (Check failed: .*? is false: )?")
_MAX_REASON: Final = 300  # characters
_PROBE_IDS: Final = 48
_PROBE_STRIDE: Final = 2_654_435_761  # Knuth's multiplicative hash: spreads the choice of ids


class Worker:
    """Tries structures for one vocabulary. ``diagnostics`` is the file descriptor that the library's warnings go to."""

    def __init__(self, vocabulary: Vocabulary, diagnostics: int) -> None:
        self._diagnostics = diagnostics
        self._tables = GuideTables.of(vocabulary)
        self._compiler = xgrammar.GrammarCompiler(tokenizer_info(vocabulary), max_threads=1, cache_enabled=False)

    def try_out(self, structure: Structure) -> Reply:
        """Compile one structure and follow it for a while; say what is wrong with it."""
        os.ftruncate(self._diagnostics, 0)
        os.lseek(self._diagnostics, 0, os.SEEK_SET)
        if structure.kind is StructureKind.JSON_SCHEMA and (fault := json_schema.find_fault(structure.text)):
            return Reply(error=fault)
        try:
            grammar = self._compiler.compile_grammar(grammar_of(structure))
        except (RuntimeError, ValueError, MemoryError) as error:
            return Reply(error=_reason(str(error)) if "bad_alloc" not in str(error) else _TOO_MUCH)
        return Reply(error=self._warning() or self._find_fault(structure.kind, grammar))

    def _warning(self) -> str:
        """What the library said it would pass over."""
        said = os.pread(self._diagnostics, 4096, 0).decode(errors="replace")
        _, found, rest = said.partition("Warning: ")
        return _reason(rest) if found else ""

    def _find_fault(self, kind: StructureKind, grammar: xgrammar.CompiledGrammar) -> str:
        if grammar.memory_size_bytes > MAX_GRAMMAR:
            return "It is too large when compiled."
        guide = GrammarGuide(kind, grammar, self._tables, stop_ids=())
        words = np.empty_like(self._tables.text)
        for i in range(_PROBE_IDS):
            guide.fill(words)
            if guide.is_broken:
                return "It is too ambiguous to follow in time."
            ids = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
            if not ids.size:
                return "" if guide.is_ended else "No answer can have it."
            guide.accept(int(ids[i * _PROBE_STRIDE % ids.size]))
        return ""


def _reason(said: str) -> str:
    """A sentence from the library's words, without its own time and place in the source."""
    text = _ORIGIN.sub("", said).strip().partition("\n")[0][:_MAX_REASON].strip()
    return f"{text.rstrip('.')}." if text else "The library gives no reason."


def _limit_memory() -> None:
    """Bound what may be allocated beside what is there. Linux counts private memory (since 4.7)."""
    if sys.platform != "linux":
        return
    status = Path("/proc/self/status").read_text(encoding="ascii")
    held = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + MAX_MEMORY, held + MAX_MEMORY))


def _serve(requests: IO[bytes], replies: IO[bytes], diagnostics: int, limit_s: float, idle_s: float) -> None:
    worker = Worker(msgspec.msgpack.decode(read_frame(requests), type=Vocabulary), diagnostics)
    _limit_memory()
    signal.setitimer(signal.ITIMER_REAL, 0)
    write_frame(replies, msgspec.msgpack.encode(Reply()))
    decoder = msgspec.msgpack.Decoder(Structure)
    while select.select([requests], [], [], idle_s)[0] and (frame := read_frame(requests)):
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # of this process's own time, however busy the machine is
        reply = worker.try_out(decoder.decode(frame))
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_frame(replies, msgspec.msgpack.encode(reply))


def main() -> None:
    """Serve standard input. Whatever the library prints is kept from the reader, and from the logs: it may quote."""
    die_with(int(sys.argv[1]))
    for ends in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(ends, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, START_LIMIT_S)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)
    replies = os.fdopen(os.dup(1), "wb")
    diagnostics = os.memfd_create("diagnostics")
    os.dup2(diagnostics, 1)
    os.dup2(diagnostics, 2)
    _serve(os.fdopen(0, "rb", buffering=0), replies, diagnostics, limit_s=float(sys.argv[2]), idle_s=float(sys.argv[3]))


if __name__ == "__main__":
    main()
