"""The parts of one process that runs turns, with a beginning and an end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import ray
from ray.serve.handle import DeploymentHandle

from cluster.channel.connection import SECRET_VARIABLE
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.ray import RayBackend
from services.conversations.redis_index import RedisIdIndex
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.queue.due import RedisDueIndex
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from services.turn_process.config import ProcessConfig
from services.turn_process.served import served_model
from services.turns.parts import TurnParts
from services.turns.service import TurnService
from services.turns.settings import TurnSettings


class TurnProcess:
    """Everything that gateways and dispatchers have in common.

    Args:
        config: settings.
        replicas: the Serve handle of the model's replicas.
        name: of this process on the token channel.
    """

    def __init__(self, config: ProcessConfig, replicas: DeploymentHandle[Any], *, name: str) -> None:
        tokenizer = ChatGLM3Tokenizer.from_pretrained(config.model_path)
        self.backend = RayBackend(
            replicas,
            name=name,
            secret=os.environ[SECRET_VARIABLE].encode(),
            host=_node_address(),
            drain_grace_s=config.drain_grace_s,
        )
        self.link = RedisLink(config.redis_url)
        self.store = RedisConversationStore(
            self.link, history_ttl_s=config.history_ttl_s, max_items=config.max_conversation_items
        )
        self.index = RedisIdIndex(self.link)
        self.queue = RedisQueue(self.link, BACKGROUND, max_queued=config.max_queued)
        self.due = RedisDueIndex(self.link)
        self.model = served_model(config, tokenizer)
        self.turns = TurnService(
            TurnParts(
                backend=self.backend,
                store=self.store,
                index=self.index,
                due=self.due,
                queue=self.queue,
                tokenizer=tokenizer,
                model=self.model,
                settings=TurnSettings(deadline_s=config.longest_turn_s),
            )
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the parts; stop them in the reverse order."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.link.close)
            stack.push_async_callback(self.index.close)
            for part in (self.backend, self.turns):
                await part.start()
                stack.push_async_callback(part.stop)
            yield


def _node_address() -> str:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call] # Ray does not annotate it
    return address
