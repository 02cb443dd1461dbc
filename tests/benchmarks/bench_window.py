"""What the stride of a window costs and keeps, and what a turn of a very long conversation costs before its prefill.

Run: ``python -m tests.benchmarks.bench_window``. The first table drives ``services/turns/window.py`` alone with simulated
chats; the second measures a turn's way from the store to its prompt, on a Valkey server over a unix socket. Half a minute
on one core.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.conversations.records import Item
from services.conversations.redis_store import RedisConversationStore
from services.turns import window
from services.turns.draft import draft_stored
from services.turns.events import Truncation
from services.turns.place import find_place
from services.turns.prompt import prompt_ids, stored_messages
from services.turns.recall import recall
from services.turns.settings import ServedModel
from tests.support.turn_kit import TENANT, TINY, TurnKit, collect, user
from tests.support.valkey import running_valkey

CONTEXT = 8192
ALWAYS = 60  # tokens of a system message and the template
STRIDES = (0.0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 1.0)
CHATS = {"short turns": (30, 150), "long turns": (150, 600)}  # median tokens of a question and of its answer
NUM_TURNS = 1000
LENGTHS = (20, 200, 2000)
ROUNDS = 15
QUESTION = "Could you tell me a little more about how that was meant, and what follows from it? " * 2


@dataclass(frozen=True)
class Cost:
    """Of a chat behind its first cut. Tokens are of prompts; ``remembered`` without the new input."""

    cached: float  # share of the prompts' tokens
    computed: float  # prompt tokens computed per token that was new
    remembered: float  # mean
    least: int  # behind a cut
    turns: float  # between two cuts


def main() -> None:
    """Measure and print Markdown."""
    for name, medians in CHATS.items():
        print(f"\n{name}:\n\n| stride | cached | computed ÷ new | remembered | after a cut | turns between cuts |")  # noqa: T201 - the result
        print("|---|---|---|---|---|---|")  # noqa: T201
        for stride in STRIDES:
            cost = simulate(list(turns(*medians)), stride)
            cells = (
                f"{cost.cached:.1%} | {cost.computed:.2f} | {cost.remembered:,.0f} | {cost.least:,} | {cost.turns:.1f}"
            )
            print(f"| {stride:.3f} | {cells} |")  # noqa: T201
    asyncio.run(measure())


def turns(question: int, answer: int) -> Iterator[tuple[int, int]]:
    """Lengths of questions and answers, log-normal around their medians."""
    draw = random.Random(7)
    for _ in range(NUM_TURNS):
        yield int(question * draw.lognormvariate(0, 0.6)) + 4, int(answer * draw.lognormvariate(0, 0.6)) + 4


def simulate(chat: list[tuple[int, int]], stride: float) -> Cost:
    """One stored conversation, turn by turn."""
    space = window.space(CONTEXT, None, ALWAYS)
    held: list[tuple[int, int]] = []
    prompts, cached, new, remembered, after = [], [], [], [], []
    for question, answer in chat:
        tokens = [size for turn in held for size in turn] + [question]
        roles = ["user", "assistant"] * len(held) + ["user"]
        first = window.first(roles, tokens, num_new=1, space=space, stride=stride)
        prompt = ALWAYS + sum(tokens[first:])
        if first:
            after.append(prompt - ALWAYS - question)
        if after:  # the chat has outgrown the context
            prompts.append(prompt)
            cached.append(ALWAYS if first else prompt - question)
            new.append(question + answer)
            remembered.append(prompt - ALWAYS - question)
        held = [*held[first // 2 :], (question, answer)]
    computed = sum(prompts) - sum(cached) + sum(answer for _, answer in chat[-len(prompts) :])
    return Cost(
        cached=sum(cached) / sum(prompts),
        computed=computed / sum(new),
        remembered=statistics.mean(remembered),
        least=min(after),
        turns=len(prompts) / len(after),
    )


async def measure() -> None:
    """Milliseconds from the store to the prompt, by the conversation's length."""
    tokenizer = ChatGLM3Tokenizer.from_pretrained(TINY)
    answer = tokenizer.encode_text("\n" + QUESTION)
    print("\n| turns | whole line, ms | window, ms | whole ÷ window |\n|---|---|---|---|")  # noqa: T201 - the result
    with running_valkey() as server:
        store = RedisConversationStore(server.url)
        model = ServedModel(name="bench", context_length=CONTEXT, fingerprint="fp")
        kit = TurnKit(tokenizer, ScriptedBackend(answer), model=model, store=store)  # type: ignore[arg-type] # no switches
        await kit.service.start()
        for num_turns in LENGTHS:
            whole, cut = await _measured(kit, num_turns, answer)
            print(f"| {num_turns:,} | {whole:.1f} | {cut:.1f} | {whole / cut:.1f} |")  # noqa: T201
        await kit.service.stop()
        await store.close()


async def _measured(kit: TurnKit, num_turns: int, answer: list[int]) -> tuple[float, float]:
    past = [
        Item(id="", role=role, text=QUESTION, ids=ids)
        for _ in range(num_turns)
        for role, ids in (("user", None), ("assistant", answer))
    ]
    conversation = (await kit.store.create(TENANT, metadata={}, items=past)).id
    turn = replace(kit.stored_turn(user(QUESTION), conversation=conversation), truncation=Truncation.AUTO)
    await collect(kit.service.respond(turn))  # its answer says where the window begins
    parts = kit.parts()
    new = [Item(id="msg_new", role="user", text=QUESTION)]

    async def whole() -> None:
        line = await kit.store.load(TENANT, conversation)
        prompt_ids(kit.tokenizer, stored_messages(None, line.items, new))

    async def cut() -> None:
        place = await find_place(parts.store, turn, conversation)
        await draft_stored(parts, turn, conversation, await recall(parts, turn, place), new)

    return await _median_ms(whole), await _median_ms(cut)


async def _median_ms(run: Callable[[], Awaitable[None]]) -> float:
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        await run()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
