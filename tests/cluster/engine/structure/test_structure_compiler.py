"""Structures compile beside the engine: in turns, within their time, and a bad one costs its own request alone."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cluster.engine.async_engine import ThreadedEngine
from cluster.engine.guide import replay
from cluster.engine.structure import compiler as compiler_module
from cluster.engine.structure.compiler import StructureCompiler
from cluster.engine.structure.workshop import Workshop
from cluster.errors import CheckpointError, InvalidRequestError, NoReplicaError, OverloadedError
from cluster.protocol import FinishReason, GenerateRequest, SamplingParams, Structure, StructureKind
from tests.fakes.engine_driver import CONFIG
from tests.fakes.fake_runner import FakeRunner
from tests.fakes.listener import Listener
from tests.support.structures import TOKENIZER, VOCABULARY, compiled, ids_of

ENDLESS = "root ::= " + " ".join(['"a"?'] * 2000)


def asking(
    text: str, *, attempt: int = 1, kind: StructureKind = StructureKind.REGEX, tenant: str = "a"
) -> GenerateRequest:
    sampling = SamplingParams(max_new_tokens=4, stop_ids=TOKENIZER.stop_ids, structure=Structure(kind=kind, text=text))
    return GenerateRequest(attempt=attempt, request_id="", tenant=tenant, prompt_ids=[1], sampling=sampling)


class Bench:
    """Stands in for the process that tries structures: answers when told to, and knows what it was asked in which order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def try_out(self, structure: Structure) -> str:
        self.asked.append(structure.text)
        asyncio.run_coroutine_threadsafe(self.gate.wait(), self._loop).result(60)
        return ""


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    monkeypatch.setattr(Workshop, "start", lambda _: None)
    monkeypatch.setattr(Workshop, "try_out", lambda _, structure: bench.try_out(structure))
    return bench


@asynccontextmanager
async def compiling(**options: float) -> AsyncIterator[StructureCompiler]:
    compiler = StructureCompiler(lambda: VOCABULARY, **options)
    try:
        yield compiler
    finally:
        await compiler.stop()


async def until(condition: object) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.to_thread(lambda: None)


async def refusal(compiler: StructureCompiler, request: GenerateRequest) -> str:
    with pytest.raises(InvalidRequestError) as raised:
        await compiler.guide(request)
    assert raised.value.param == "response_format"
    return str(raised.value)


async def test_structures_are_tried_first() -> None:
    """One that works, wrong ones with the library's reason, one that takes for ever, and one that works again."""
    async with compiling(limit_s=0.4) as compiler:
        guide = await compiler.guide(asking("[0-9]+"))
        replay(guide, ids_of("42"))
        assert guide.is_ended
        schema = StructureKind.JSON_SCHEMA
        assert "parenthesis" in await refusal(compiler, asking("("))
        assert "'not'" in await refusal(compiler, asking('{"not": {}}', kind=schema))
        told = await refusal(compiler, asking('{"type": "string", "pattern": "a", "maxLength": 3}', kind=schema))
        assert "ignoring" in told  # the library only warns of it
        assert "No answer" in await refusal(compiler, asking("root ::= root", kind=StructureKind.GRAMMAR))
        assert "too long" in await refusal(compiler, asking(ENDLESS, kind=StructureKind.GRAMMAR))
        assert await compiler.guide(asking("", kind=StructureKind.JSON_OBJECT))


async def test_a_worker_that_ended_in_idleness_is_replaced() -> None:
    """The next structure finds another one."""
    workshop = Workshop(VOCABULARY, idle_s=0.5)
    structure = Structure(kind=StructureKind.REGEX, text="a")
    try:
        assert await asyncio.to_thread(workshop.try_out, structure) == ""
        first = workshop._process
        assert await asyncio.to_thread(first.wait, 60) == 0
        assert await asyncio.to_thread(workshop.try_out, structure) == ""
        assert workshop._process is not first
    finally:
        workshop.close()
        await asyncio.to_thread(workshop.clear)


async def test_free_text_has_no_guide() -> None:
    """And loads nothing."""
    async with compiling() as compiler:
        request = GenerateRequest(
            attempt=1, request_id="", tenant="a", prompt_ids=[1], sampling=SamplingParams(max_new_tokens=1)
        )
        assert await compiler.guide(request) is None
        assert compiler._toolkit is None


async def test_without_xgrammar_a_structure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    async with compiling() as compiler:
        assert "chatglm-cluster[structured]" in await refusal(compiler, asking("a"))


@pytest.mark.parametrize("text", ["a" * (compiler_module.MAX_TEXT + 1), "\ud800"])
async def test_unreasonable_texts_are_refused_at_once(bench: Bench, text: str) -> None:
    """Too long, or no Unicode: the process that tries them never sees them."""
    async with compiling() as compiler:
        await refusal(compiler, asking(text))
    assert bench.asked == []


async def test_a_tokenizer_that_cannot_be_read_is_told() -> None:
    """The error is the tokenizer's own, for the request that needed it."""

    def load() -> None:
        raise CheckpointError("no tokenizer")

    compiler = StructureCompiler(load)
    with pytest.raises(CheckpointError):
        await compiler.guide(asking("a"))
    await compiler.stop()


async def test_equal_structures_of_a_tenant_compile_once(bench: Bench) -> None:
    """At the same time or later; each request has a guide of its own."""
    bench.gate.set()
    async with compiling() as compiler:
        guides = await asyncio.gather(*[compiler.guide(asking("a")) for _ in range(5)])
        guides.append(await compiler.guide(asking("a")))
    assert bench.asked == ["a"]
    assert len(set(map(id, guides))) == 6


async def test_tenants_share_no_compiled_structure(bench: Bench) -> None:
    """Or one could learn from the time it takes what another asks for."""
    bench.gate.set()
    async with compiling() as compiler:
        for tenant in "ab":
            await compiler.guide(asking("a", tenant=tenant))
    assert bench.asked == ["a", "a"]


async def test_least_used_structures_are_dropped(bench: Bench) -> None:
    """What is kept is bounded in bytes, and using a structure keeps it."""
    bench.gate.set()
    sizes = [compiled(asking(text).sampling.structure).memory_size_bytes for text in "abc"]
    async with compiling(max_kept_bytes=sum(sizes) - 1) as compiler:
        for text in "abaca":
            await compiler.guide(asking(text))
        assert bench.asked == ["a", "b", "c"]
        await compiler.guide(asking("b"))
    assert bench.asked == ["a", "b", "c", "b"]


async def test_a_tenant_waits_for_its_own_structures(bench: Bench) -> None:
    """Three of A come first, yet B's is compiled second."""
    async with compiling() as compiler:
        waiting = [asyncio.create_task(compiler.guide(asking(text))) for text in ("a1", "a2", "a3")]
        await until(lambda: bench.asked == ["a1"])
        waiting.append(asyncio.create_task(compiler.guide(asking("b1", tenant="b"))))
        await until(lambda: len(compiler._tasks) == 4)
        bench.gate.set()
        await asyncio.gather(*waiting)
    assert bench.asked == ["a1", "b1", "a2", "a3"]


async def test_too_many_waiting_structures_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded."""
    monkeypatch.setattr(compiler_module, "MAX_WAITING", 1)
    async with compiling() as compiler:
        first = asyncio.create_task(compiler.guide(asking("a")))
        await until(lambda: bench.asked)
        with pytest.raises(OverloadedError):
            await compiler.guide(asking("b"))
        bench.gate.set()
        assert await first


async def test_stop_refuses_what_waits(bench: Bench) -> None:
    """A structure that is still to be compiled hears that the engine stops."""
    compiler = StructureCompiler(lambda: VOCABULARY)
    tasks = [asyncio.create_task(compiler.guide(asking(text))) for text in "ab"]
    await until(lambda: bench.asked)
    stopping = asyncio.create_task(compiler.stop())
    await asyncio.sleep(0)
    bench.gate.set()
    await stopping
    assert await tasks[0]
    with pytest.raises(NoReplicaError):
        await tasks[1]
    await compiler.stop()


# -- behind an engine ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[ThreadedEngine, Listener]]:
    config = replace(CONFIG, vocab_size=VOCABULARY.size)
    engine = ThreadedEngine(FakeRunner, config, structures=StructureCompiler(lambda: VOCABULARY))
    listener = Listener()
    await engine.start(listener)
    try:
        yield engine, listener
    finally:
        await engine.stop()


async def test_an_abort_during_compilation_ends_the_attempt(bench: Bench) -> None:
    """It is accepted and ends at once, as if the abort had come a moment later."""
    async with serving() as (engine, listener):
        submit = asyncio.create_task(engine.submit(asking("a", attempt=7)))
        await until(lambda: bench.asked)
        await engine.abort(7)
        bench.gate.set()
        await submit
        finish = await listener.finish(7)
    assert (finish.reason, finish.total) == (FinishReason.ABORTED, 0)


async def test_a_submit_cancelled_during_compilation_leaves_nothing(bench: Bench) -> None:
    """The structure is kept for the next one, which is served."""
    async with serving() as (engine, listener):
        submit = asyncio.create_task(engine.submit(asking("a", attempt=7)))
        await until(lambda: bench.asked)
        submit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submit
        bench.gate.set()
        await engine.submit(asking("a", attempt=8))
        await listener.finish(8)
        assert listener.finishes.keys() == {8}
    assert bench.asked == ["a"]


async def test_free_text_does_not_wait_for_structures(bench: Bench) -> None:
    """Others are served while one compiles."""
    async with serving() as (engine, listener):
        submit = asyncio.create_task(engine.submit(asking("a", attempt=7)))
        await until(lambda: bench.asked)
        sampling = SamplingParams(max_new_tokens=3)
        await engine.submit(GenerateRequest(attempt=8, request_id="", tenant="a", prompt_ids=[1], sampling=sampling))
        assert (await listener.finish(8)).reason is FinishReason.LENGTH
        bench.gate.set()
        await submit


async def test_an_engine_without_a_compiler_refuses_structures() -> None:
    """It never serves them as free text."""
    engine = ThreadedEngine(FakeRunner, CONFIG)
    await engine.start(Listener())
    try:
        with pytest.raises(InvalidRequestError):
            await engine.submit(asking("a"))
    finally:
        await engine.stop()
