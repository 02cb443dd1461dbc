"""Guides for requests that ask for a structure: compiled off the event loop and off the engine's thread, and kept.

Compiled grammars are kept per tenant. Shared ones would let a tenant learn, from how fast its own request is accepted,
that another asks for the same schema. A tenant compiles one structure at a time, and tenants take turns, so whoever
sends expensive ones waits for them alone.

xgrammar is loaded with the first structure, because it costs half a second and 50 MB that most replicas never need.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from cluster.engine.guide import Guide
from cluster.engine.structure.vocabulary import Vocabulary
from cluster.engine.structure.workshop import LIMIT_S, Workshop
from cluster.errors import InvalidRequestError, NoReplicaError, OverloadedError
from cluster.protocol import GenerateRequest, Structure

if TYPE_CHECKING:  # these modules load xgrammar
    from cluster.engine.structure.toolkit import Grammar, Toolkit

MAX_TEXT: Final = 2**16  # characters of a schema, expression or grammar
MAX_KEPT_BYTES: Final = 2**28  # of compiled grammars
MAX_WAITING: Final = 64  # structures to compile
_REFUSAL_BYTES: Final = 1024  # about what keeping a reason costs

_NICENESS: Final = 10

_Key = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class _Refused:
    """A structure that will never compile."""

    reason: str
    size: int = _REFUSAL_BYTES


class StructureCompiler:
    """Makes guides. All methods belong to one event loop; a thread does the work, after a process has tried it.

    Args:
        load_vocabulary: called once, in the thread, when the first structure comes.
        limit_s: computing time that one structure may take.
        max_kept_bytes: of compiled grammars; the ones unused for longest go first.
    """

    def __init__(
        self,
        load_vocabulary: Callable[[], Vocabulary],
        *,
        limit_s: float = LIMIT_S,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self._load_vocabulary = load_vocabulary
        self._max_kept_bytes = max_kept_bytes
        self._limit_s = limit_s
        self._workshop: Workshop | None = None
        self._toolkit: Toolkit | None = None
        self._kept: OrderedDict[_Key, Grammar | _Refused] = OrderedDict()
        self._kept_bytes = 0
        self._tasks: dict[_Key, asyncio.Task[Grammar | _Refused]] = {}
        self._turn = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # per tenant
        self._is_stopping = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="structures", initializer=_step_back)

    async def guide(self, request: GenerateRequest) -> Guide | None:
        """The guide of a request, at its start; None where free text is asked for.

        Raises:
            InvalidRequestError: the structure is wrong, impossible or too expensive, or xgrammar is not installed.
            OverloadedError: too many structures wait to be compiled.
            CheckpointError: the tokenizer cannot be read.
            NoReplicaError: the engine is stopping, or the process that tries structures does not start.
        """
        structure = request.sampling.structure
        if structure is None:
            return None
        _check(structure)
        grammar = await self._grammar(request.tenant, structure)
        if isinstance(grammar, _Refused):
            raise InvalidRequestError(f"The structure cannot be used. {grammar.reason}", param="response_format")
        return grammar.guide(request.sampling.stop_ids)

    async def stop(self) -> None:
        """End thread and process; requests that wait for it are refused. May be repeated."""
        if self._is_stopping:
            return
        self._is_stopping = True
        if self._workshop is not None:
            self._workshop.close()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._workshop is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._workshop.clear)
        self._thread.shutdown()

    async def _grammar(self, tenant: str, structure: Structure) -> Grammar | _Refused:
        key = (tenant, blake2b(f"{structure.kind.value}:{structure.text}".encode(), digest_size=16).digest())
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        return await asyncio.shield(self._tasks.get(key) or self._begin(key, structure))

    def _begin(self, key: _Key, structure: Structure) -> asyncio.Task[Grammar | _Refused]:
        if len(self._tasks) >= MAX_WAITING:
            raise OverloadedError("Too many structures wait to be compiled.", retry_after_s=5.0)
        task = self._tasks[key] = asyncio.create_task(self._compile(key, structure))
        task.add_done_callback(lambda ended: self._end(key, ended))
        return task

    def _end(self, key: _Key, task: asyncio.Task[Grammar | _Refused]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did any more, it is of no interest

    async def _compile(self, key: _Key, structure: Structure) -> Grammar | _Refused:
        tenant = self._turns.setdefault(key[0], asyncio.Lock())
        async with tenant, self._turn:
            compiled = await asyncio.get_running_loop().run_in_executor(self._thread, self._compile_now, structure)
        self._keep(key, compiled)
        return compiled

    def _compile_now(self, structure: Structure) -> Grammar | _Refused:
        if self._is_stopping:
            raise NoReplicaError("The engine is stopping.", retry_after_s=1.0)
        compiled = self._tools().compile(structure)
        return _Refused(compiled) if isinstance(compiled, str) else compiled

    def _tools(self) -> Toolkit:
        if self._toolkit is None:
            vocabulary = self._load_vocabulary()
            self._workshop = Workshop(vocabulary, limit_s=self._limit_s)
            self._workshop.start()  # its process loads xgrammar while this one does
            from cluster.engine.structure.toolkit import Toolkit  # noqa: PLC0415 -- loads xgrammar

            self._toolkit = Toolkit(vocabulary, self._workshop)
        return self._toolkit

    def _keep(self, key: _Key, compiled: Grammar | _Refused) -> None:
        self._kept[key] = compiled
        self._kept_bytes += compiled.size
        while self._kept_bytes > self._max_kept_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].size


def _step_back() -> None:
    """Let the engine's thread come first; on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _check(structure: Structure) -> None:
    """What can be said of a structure without xgrammar."""
    if len(structure.text) > MAX_TEXT:
        raise InvalidRequestError(
            f"The structure has {len(structure.text)} characters; at most {MAX_TEXT} are taken.",
            param="response_format",
        )
    if not _is_unicode(structure.text):
        raise InvalidRequestError("The structure is not valid Unicode.", param="response_format")
    if importlib.util.find_spec("xgrammar") is None:
        raise InvalidRequestError(
            "This server does not produce structured output; "
            "its operator can change that by `pip install chatglm-cluster[structured]`.",
            param="response_format",
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
