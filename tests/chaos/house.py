"""A small cluster in this process: two gateways and a dispatcher over a real server, and an engine that talks fast.

Each part has its own way to the store, through a proxy: to all others, one that is cut off for good has died, and one
whose replies stall has been stopped. Leases are short, so that little is waited for.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.local import LocalBackend
from services.conversations.memory_index import MemoryIdIndex
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.settings import DispatcherSettings
from services.gateway.app import create_app
from services.queue.due import RedisDueIndex
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.parts import TurnParts
from services.turns.service import TurnService
from services.turns.settings import JournalSettings, ServedModel, TurnSettings
from tests.chaos.checker import check
from tests.chaos.connection import Caller
from tests.chaos.kept import open_work, read_kept
from tests.chaos.record import Log, read_log
from tests.chaos.talker import KINDS, Talker
from tests.fakes.paced_engine import visible_ids
from tests.fakes.talking_engine import TalkingEngine
from tests.support.gateway import MODEL, TENANT, make_deps, serving
from tests.support.proxy import TcpProxy, proxy_to
from tests.support.valkey import ValkeyServer

TINY = Path(__file__).parents[1] / "parity" / "data" / "tiny"
SERVED = ServedModel(name=MODEL, context_length=8192, fingerprint="fp_1")
TALKERS = 12
STEPS_PER_S = 25.0
SETTLE_S = 30.0  # the index and the queue of a sound house are empty by then
SETTINGS = TurnSettings(
    resume_s=10.0,
    journal=JournalSettings(lease_s=1.0, margin_s=0.2, flush_s=0.05, renew_s=0.2, retry_s=0.02, away_s=20.0),
)


@dataclass
class Part:
    """What a gateway or a dispatcher is made of; ``way`` leads to the store."""

    way: TcpProxy
    link: RedisLink
    store: RedisConversationStore
    due: RedisDueIndex
    queue: RedisQueue
    turns: TurnService


@dataclass
class House:
    """The cluster, while it stands.

    Attributes:
        url, key: for its clients, who meet another gateway with each connection.
        gateways: two.
        dispatcher: one, whose way to the store stays open.
        folder: where the clients write.
    """

    server: ValkeyServer
    folder: Path
    url: str = ""
    key: str = ""
    gateways: list[Part] = field(default_factory=list)
    dispatcher: Part = field(init=False)

    async def faults(
        self, meanwhile: Callable[[], Awaitable[None]], kinds: Mapping[str, int] = KINDS, settle_s: float = SETTLE_S
    ) -> list[str]:
        """Let clients talk while something happens; the checker's word when they have ended their turns."""
        path = self.folder / "clients.jsonl"
        with Log(path) as log:
            await self._talk(meanwhile, log, kinds)
        with self.server.client() as client:
            await self._settled(client, settle_s)
            return check(read_log(path), read_kept(client, TENANT))

    async def _talk(self, meanwhile: Callable[[], Awaitable[None]], log: Log, kinds: Mapping[str, int]) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        client = httpx.AsyncClient(base_url=f"{self.url}/v1", headers=headers, limits=limits)
        async with client, asyncio.TaskGroup() as talking:
            rngs = [random.Random(number) for number in range(TALKERS)]
            made = [Talker(f"t{n:02}", Caller(client, MODEL, log), rng, kinds) for n, rng in enumerate(rngs)]
            for talker in made:
                talking.create_task(talker.talk())
            try:
                await meanwhile()
            finally:
                for talker in made:
                    talker.stop()

    async def _settled(self, client: object, settle_s: float) -> None:
        """Wait for the work that is left; what stays in spite of that is for the checker."""
        for _ in itertools.takewhile(lambda _: open_work(client), range(round(settle_s * 10))):  # type: ignore[arg-type]
            await asyncio.sleep(0.1)


@asynccontextmanager
async def a_house(server: ValkeyServer, folder: Path, *, wavers: int = 1) -> AsyncIterator[House]:
    """Built on an empty server that is reached by TCP. Its engine wavers whenever it goes on with an answer."""
    house = House(server, folder)
    tokenizer = ChatGLM3Tokenizer.from_pretrained(TINY)
    keys = MemoryKeyStore()
    house.key = (await keys.create(TENANT, "test"))[1]
    async with AsyncExitStack() as stack:
        backend = LocalBackend(TalkingEngine(visible_ids(tokenizer), STEPS_PER_S, wavers))
        await backend.start()
        stack.push_async_callback(backend.stop)
        ports = []
        for _ in range(2):
            part = await _part(stack, server, tokenizer, backend)
            house.gateways.append(part)
            deps = make_deps(turns=part.turns, store=part.store, authenticator=Authenticator(keys), eraser=None)
            url = await stack.enter_async_context(serving(create_app(deps)))
            ports.append(int(url.rpartition(":")[2]))
        house.dispatcher = await _part(stack, server, tokenizer, backend)
        await _dispatcher(stack, house.dispatcher)
        front = await stack.enter_async_context(proxy_to(*ports))
        house.url = f"http://127.0.0.1:{front.port}"
        yield house


async def _part(
    stack: AsyncExitStack, server: ValkeyServer, tokenizer: ChatGLM3Tokenizer, backend: LocalBackend
) -> Part:
    way = await stack.enter_async_context(proxy_to(server.port))
    link = RedisLink(f"redis://127.0.0.1:{way.port}")
    stack.push_async_callback(link.close)
    store, due, queue = RedisConversationStore(link), RedisDueIndex(link), RedisQueue(link, BACKGROUND)
    parts = TurnParts(
        backend=backend,
        store=store,
        index=MemoryIdIndex(),
        due=due,
        queue=queue,
        tokenizer=tokenizer,
        model=SERVED,
        settings=SETTINGS,
    )
    turns = TurnService(parts)
    await turns.start()
    stack.push_async_callback(turns.stop)
    return Part(way, link, store, due, queue, turns)


async def _dispatcher(stack: AsyncExitStack, part: Part) -> None:
    settings = DispatcherSettings(care_s=0.2, first_pause_s=0.05)
    made = Dispatcher(part.turns, part.store, part.queue, part.due, name="d1", settings=settings)
    await made.start()
    stack.push_async_callback(made.stop)
